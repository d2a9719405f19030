"""Text that LaTeX sets as it is: with pdfLaTeX too, without packages, whatever it holds."""

from __future__ import annotations

import re
import unicodedata

from rwkvclip_eval.printable import one_line

_SIGNS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # A quotation mark of typewriters is a command in some languages of babel.
    '"': r"{\char34}",
    # The accent over nothing; a grave accent by name is of a font that not all have.
    "`": r"\`{}",
    # At the head of a row, a star or a bracket would be taken for an option of the row before it.
    "*": "{*}",
    "[": "{[}",
    "]": "{]}",
    "→": r"$\to$",
    "←": r"$\leftarrow$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "−": "$-$",
    "≈": r"$\approx$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "·": r"$\cdot$",
    "Δ": r"$\Delta$",
    "λ": r"$\lambda$",
    "α": r"$\alpha$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "’": "{'}",
    "‘": "{`}",
    "“": "``",
    "”": "''",
    "\u00a0": "~",
    "\u2011": "-",
}
_ACCENTS = frozenset("\u0300\u0301\u0302\u0303\u0308\u030a\u030c")
"""Of Latin letters: those that every encoding of fonts has or composes."""
_PIECES = re.compile(r"-{2,}|'{2,}|[ -~]|[^ -~]+")


def escape_latex(text: str) -> str:
    """Return `text` in one line so that LaTeX sets it as it is; what its fonts may lack as `[U+05D0]`."""
    return "".join(map(_piece, _PIECES.findall(one_line(text))))


def _piece(piece: str) -> str:
    if len(piece) > 1 and piece[0] in "-'":
        # Fonts make one sign of two.
        return f"{{{piece[0]}}}" * len(piece)
    if piece.isascii():
        return _SIGNS.get(piece, piece)
    return _beyond(piece)


def _beyond(text: str) -> str:
    """Return characters beyond ASCII; a run of unknown ones stands in one pair of brackets."""
    found: list[str] = []
    unknown: list[str] = []
    for sign in text:
        known = _SIGNS.get(sign) or (sign if _is_accented(sign) else "")
        if known:
            found += [_code_points(unknown), known]
            unknown = []
        else:
            unknown.append(sign)
    return "".join([*found, _code_points(unknown)])


def _is_accented(sign: str) -> bool:
    parts = unicodedata.normalize("NFD", sign)
    return (
        len(parts) == 2 and parts[0].isascii() and parts[0].isalpha() and parts[1] in _ACCENTS and sign < "ſ"
    )


def _code_points(signs: list[str]) -> str:
    return f"{{[}}{' '.join(f'U+{ord(sign):04X}' for sign in signs)}{{]}}" if signs else ""
