"""Tokens of text: tokenizers in the ``tokenizer.json`` of Hugging Face, read, trained and written.

    tokenizer = load_tokenizer("TinyStories-656K")
    ids = tokenizer.encode("Once upon a time")     # tokenizer.begin, then the text's
    tokenizer.decode(ids)

The package ``tokenizers`` (``pip install "diffax[text]"``) is imported when one is read or trained.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffax.checks import require
from diffax.data.optional import optional_import
from diffax.io.files import write_json, write_text

FILE = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
_BEGIN, _END = "<|begin|>", "<|end|>"
_LEAST = 256 + 2  # every byte, and the two above


class Tokenizer:
    """Text to tokens and back; ``raw`` is the ``tokenizers.Tokenizer``.

    ``begin`` and ``end``: the tokens that texts begin and end with, or None where there is none. ``size``:
    one more than the largest token. ``settings``: what tokenizer_config.json says, which ``save`` writes.
    """

    def __init__(
        self,
        raw: Any,
        begin: int | None = None,
        end: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.raw, self.begin, self.end = raw, begin, end
        self.settings = dict(settings or _settings(raw, begin, end))
        self.size = max(raw.get_vocab(with_added_tokens=True).values()) + 1
        for name, token in (("begin", begin), ("end", end)):
            require(token is None or 0 <= token < self.size, name, token, f"a token in [0, {self.size})")
        added = raw.get_added_tokens_decoder().items()
        self._special = {begin, end} | {number for number, token in added if token.special}
        raw.no_truncation()  # files may ask for both
        raw.no_padding()

    def encode(self, text: str, begin: bool = True) -> list[int]:
        """Tokens of a text; with ``begin`` they start with ``self.begin``, once, where there is one.

        What the file itself would add around a text is left out; special tokens that are spelled out in the
        text are read as such, so a text may bring its own beginning.
        """
        ids = list(self.raw.encode(text, add_special_tokens=False).ids)
        if not begin or self.begin is None or ids[:1] == [self.begin]:
            return ids
        return [self.begin, *ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, without the special ones. Raises ValueError for tokens out of range."""
        ids = [int(token) for token in ids]
        wrong = [token for token in ids if not 0 <= token < self.size]
        require(not wrong, "ids", wrong[:3], f"tokens in [0, {self.size})")
        kept = [token for token in ids if token not in self._special]
        return self.raw.decode(kept, skip_special_tokens=False)

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, which ``AutoTokenizer`` of transformers reads too.

        The folder may hold a model already: other files in it stay.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / FILE, self.raw.to_str(pretty=True))
        write_json(folder / SETTINGS, self.settings)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Of a folder with tokenizer.json, or of such a file.

    Begin and end are those that tokenizer_config.json beside it names, else config.json by their numbers.
    Raises ValueError naming the file that is missing or damaged, or names a token that does not exist.
    """
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    require(file.is_file(), "path", str(path), f"a folder with {FILE}, or such a file")
    try:
        raw = optional_import("tokenizers", "text").Tokenizer.from_file(str(file))
    except ImportError:
        raise
    except Exception as error:  # the package raises bare ones
        raise ValueError(f"{file}: got {error!s}, allowed: a file of the tokenizers package") from error
    settings, numbers = (_read_fields(file.parent / name) for name in (SETTINGS, "config.json"))
    begin, end = (_special(raw, file.parent, settings, numbers, name) for name in ("bos", "eos"))
    return Tokenizer(raw, begin, end, settings)


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """Byte-level byte-pair encoding of at most ``size`` tokens, learned from texts; the same for the same.

    Sennrich et al. 2016 (arXiv:1508.07909). Any text survives ``decode(encode(text))``. Tokens 0 and 1 are
    begin and end; fewer than ``size`` come out where the texts hold too few pairs that occur twice.
    Raises ValueError unless ``size`` is 258 or more: bytes, begin and end.
    """
    require(size >= _LEAST, "size", size, f"an integer >= {_LEAST}")
    package = optional_import("tokenizers", "text")
    raw = package.Tokenizer(package.models.BPE())
    raw.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = package.decoders.ByteLevel()
    trainer = package.trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[_BEGIN, _END],
        initial_alphabet=package.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    # for other readers of the file, which would not put the beginning there by themselves
    raw.post_processor = package.processors.TemplateProcessing(
        single=f"{_BEGIN} $A", pair=f"{_BEGIN} $A {_BEGIN} $B", special_tokens=[(_BEGIN, 0)]
    )
    return Tokenizer(raw, 0, 1)


def _settings(raw: Any, begin: int | None, end: int | None) -> dict[str, Any]:
    """Those of a tokenizer that had none."""
    named = {"bos_token": begin, "eos_token": end}
    tokens = {name: raw.id_to_token(token) for name, token in named.items() if token is not None}
    return {"tokenizer_class": "PreTrainedTokenizerFast", **tokens, "clean_up_tokenization_spaces": False}


def _read_fields(path: Path) -> dict[str, Any]:
    """An object of JSON; {} where there is no file."""
    if not path.is_file():
        return {}
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: got {error!s}, allowed: JSON") from error
    require(isinstance(fields, dict), str(path), type(fields).__name__, "an object")
    return fields


def _special(
    raw: Any, folder: Path, settings: Mapping[str, Any], numbers: Mapping[str, Any], name: str
) -> int | None:
    """The token "bos" or "eos"."""
    word = settings.get(f"{name}_token")
    if f"{name}_token" in settings and word is None:
        return None
    if word is not None:
        word = word.get("content") if isinstance(word, dict) else word  # older files hold an object
        found = raw.token_to_id(word) if isinstance(word, str) else None
        require(found is not None, f"{folder / SETTINGS}: {name}_token", word, f"a token of {FILE}")
        return found
    number: Any = numbers.get(f"{name}_token_id")
    number = number[0] if isinstance(number, list) and number else number  # several may end a text
    if number is None:
        return None
    known = isinstance(number, int) and raw.id_to_token(number) is not None
    require(known, f"{folder / 'config.json'}: {name}_token_id", number, f"a token of {FILE}")
    return number
