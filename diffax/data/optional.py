"""Optional packages: imported when a function needs them, never when ``diffax`` is imported."""

import importlib
from types import ModuleType


def optional_import(module: str, extra: str = "data") -> ModuleType:
    """Import a module of an optional extra, or raise ``ImportError`` with the line that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{module} is needed here: pip install "diffax[{extra}]"') from error
