"""A small reader of the LaTeX that reports write: it refuses what LaTeX would, and reads the text back."""

import re

_COMMANDS = {
    "textbackslash": "\\",
    "textasciicircum": "^",
    "textasciitilde": "~",
    "textless": "<",
    "textgreater": ">",
    "textbar": "|",
    "ldots": "…",
    "Delta": "Δ",
    "lambda": "λ",
    "alpha": "α",
    "approx": "≈",
    "pm": "±",
    "sim": "~",
    "to": "→",
    "leftarrow": "←",
    "times": "×",
    "leq": "≤",
    "geq": "≥",
    "cdot": "·",
    "quad": " ",
    "textbf": "",
    "scriptsize": "",
}
_TOKEN = re.compile(r"\\([A-Za-z]+) ?|\\([^A-Za-z])|(.)", re.DOTALL)


class Misfit(AssertionError):
    """LaTeX would stop here, or set something else."""


def read_text(source: str) -> str:
    """Return what is set, of a piece without tables or environments."""
    text, depth, maths, at = [], 0, False, 0
    while at < len(source):
        match = _TOKEN.match(source, at)
        assert match is not None
        at = match.end()
        word, escaped, sign = match.groups()
        if word == "char":
            number = re.match(r"\d+", source[at:])
            assert number is not None
            text.append(chr(int(number[0])))
            at += number.end()
        elif word:
            if word not in _COMMANDS:
                raise Misfit(f"unknown command \\{word}")
            text.append(_COMMANDS[word])
        elif escaped:
            if escaped not in r"{}$&%#_,`":
                raise Misfit(f"\\{escaped}")
            text.append("" if escaped == "," else escaped)
        elif match[0] == "-" and source.startswith("--", at):
            text.append("—")
            at += 2
        elif sign == "{":
            depth += 1
        elif sign == "}":
            depth -= 1
            if depth < 0:
                raise Misfit("} without {")
        elif sign == "$":
            maths = not maths
        elif sign in "&%#_^~\n\t" or (ord(sign) < 32):
            raise Misfit(f"a bare {sign!r}")
        elif sign == "-" and maths:
            text.append("−")
        else:
            text.append(sign)
    if depth or maths:
        raise Misfit("something is not closed")
    # Ligatures of fonts, which braces hinder.
    for signs in ("''", "``", "?`", "!`"):
        if signs in source.replace("\\`", ""):
            raise Misfit(f"a ligature {signs}")
    found = "".join(text)
    return re.sub(r"\[(U\+[0-9A-F]+(?: U\+[0-9A-F]+)*)\]", _named, found)


def _named(found: re.Match[str]) -> str:
    return "".join(chr(int(one[2:], 16)) for one in found[1].split())


def read_tables(source: str) -> list[list[list[str]]]:
    """Return the body of every tabular, row by row, the text of each cell; comments are left out.

    Raises:
        Misfit: rows have other numbers of cells than columns, or environments do not fit together.
    """
    lines = [line for line in source.split("\n") if not line.startswith("%")]
    code = "\n".join(lines)
    stack: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{([a-z*]+)\}", code):
        if kind == "begin":
            stack.append(name)
        elif not stack or stack.pop() != name:
            raise Misfit(f"\\end{{{name}}}")
    if stack:
        raise Misfit(f"not ended: {stack}")
    tables = []
    for layout, body in re.findall(
        r"\\begin\{tabular\}\{([lc]+)\}\n(.*?)\n\\end\{tabular\}", code, re.DOTALL
    ):
        rows = []
        for line in body.split("\n"):
            if re.fullmatch(
                r"(\\(toprule|midrule|bottomrule|addlinespace|cmidrule\(lr\)\{\d+-\d+\}))+", line
            ):
                continue
            if not line.endswith(r" \\"):
                raise Misfit(f"a row does not end: {line!r}")
            if line.lstrip().startswith(("[", "*")):
                raise Misfit(f"an option of the row before: {line!r}")
            row: list[str] = []
            for cell in re.split(r"(?<!\\) ?& ?", line.removesuffix(r" \\")):
                wide = re.fullmatch(r"\\multicolumn\{(\d+)\}\{c\}\{(.*)\}", cell.strip())
                row += [read_text(wide[2])] + [""] * (int(wide[1]) - 1) if wide else [read_text(cell.strip())]
            if len(row) != len(layout):
                raise Misfit(f"{len(row)} cells in {len(layout)} columns: {line!r}")
            rows.append(row)
        tables.append(rows)
    return tables
