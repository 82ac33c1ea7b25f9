"""Text that is on every machine with Python: what its standard library says about itself.

The docstrings of some hundred modules, a document a module, and Python's licence: about a megabyte of
English. To train small tokenizers and models on where no data is at hand. The text is the same for one
version of Python and differs between versions; figures measured on it must name the version.
"""

import ast
import hashlib
import sysconfig
from pathlib import Path

from diffax.checks import require, require_one_of

_NAMES = """
abc argparse ast asyncio.base_events asyncio.events asyncio.futures asyncio.locks asyncio.protocols
asyncio.queues asyncio.runners asyncio.streams asyncio.subprocess asyncio.tasks asyncio.timeouts
asyncio.transports base64 bdb bisect bz2 calendar cmd code codecs codeop collections compileall
concurrent.futures.process concurrent.futures.thread configparser contextlib contextvars copy
copyreg csv ctypes.util dataclasses dbm difflib dis doctest email.charset email.generator
email.header email.headerregistry email.message email.parser email.policy email.quoprimime
email.utils enum filecmp fileinput fnmatch fractions ftplib functools getopt getpass gettext glob
graphlib gzip hashlib heapq hmac html html.parser http http.client http.cookiejar http.cookies
http.server imaplib importlib.abc importlib.util inspect ipaddress json json.decoder json.encoder
keyword linecache locale logging logging.config logging.handlers lzma mailbox mimetypes modulefinder
multiprocessing.managers multiprocessing.pool multiprocessing.shared_memory netrc ntpath numbers
operator optparse os pdb pickle pickletools pkgutil platform plistlib poplib posixpath pprint
profile pstats py_compile pyclbr pydoc queue random reprlib runpy sched secrets selectors shelve
shlex shutil signal site smtplib socket socketserver ssl stat statistics string subprocess symtable
sysconfig tarfile tempfile textwrap threading timeit token tokenize trace traceback tracemalloc
types typing unittest unittest.case unittest.mock urllib.parse urllib.request urllib.robotparser
uuid warnings wave weakref wsgiref.handlers wsgiref.headers wsgiref.simple_server wsgiref.validate
xml.dom.minidom xml.etree.ElementTree xml.sax.handler xml.sax.saxutils xml.sax.xmlreader
xmlrpc.client xmlrpc.server zipapp
"""
MODULES = tuple(_NAMES.split())
LICENCE = "LICENSE.txt"
_SHARE = 5  # one in five packages is for tests


def standard_library_text(split: str = "train") -> list[str]:
    """Documents of the split: one of each module, its docstrings from the top down, and Python's licence.

    A package is in "train" or in "test" whole, by a digest of its name. The licence is in "train", where
    Python was installed with it. Raises ValueError for another split, and where modules have no sources.
    """
    require_one_of("split", split, ("train", "test"))
    root = Path(sysconfig.get_paths()["stdlib"])
    documents = [_docstrings(root, module) for module in MODULES if _split(module) == split]
    if split == "train" and (root / LICENCE).is_file():
        documents.append((root / LICENCE).read_text(encoding="utf-8"))
    return [text for text in documents if text]


def _split(module: str) -> str:
    digest = hashlib.sha256(module.split(".")[0].encode()).digest()
    return "test" if digest[0] % _SHARE == 0 else "train"


def _docstrings(root: Path, module: str) -> str:
    place = root.joinpath(*module.split("."))
    files = [file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()]
    require(bool(files), f"{root}: {module}", "no source", "a Python with the sources of its library")
    found = []
    for node in _in_order(ast.parse(files[0].read_text(encoding="utf-8"))):
        text = ast.get_docstring(node)
        found += [text] if text else []
    return "\n\n".join(found)


def _in_order(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> list[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """It, and what is defined in it and may have a docstring, as it stands in the file."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [node, *(deep for inner in node.body if isinstance(inner, kinds) for deep in _in_order(inner))]
