"""Say where the stand-in's functions take other arguments than ComfyUI's own: `python compare_stand_in.py COMFY_DIR`."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

STAND_IN = Path(__file__).parent / "stand_in"
OWN = {"use"}  # for the tests alone
FILES = ("folder_paths.py", "comfy/model_management.py", "comfy/model_patcher.py", "comfy/utils.py", "server.py")


def functions(path: Path) -> dict[str, list[str]]:
    """Argument names of every function and method of a file, by qualified name."""
    found = {}

    def visit(body, prefix=""):
        for item in body:
            if isinstance(item, ast.ClassDef):
                visit(item.body, f"{prefix}{item.name}.")
            elif isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                found[prefix + item.name] = [argument.arg for argument in item.args.args]

    visit(ast.parse(path.read_text(encoding="utf-8")).body)
    return found


def differences(comfy: Path) -> list[str]:
    lines = []
    for file in FILES:
        real = functions(comfy / file)
        for name, arguments in functions(STAND_IN / file).items():
            if name in OWN or name == "PromptServer.__init__":
                continue
            if name not in real:
                lines.append(f"{file}: ComfyUI has no {name}")
            elif real[name][: len(arguments)] != arguments:
                lines.append(f"{file}: {name} takes {real[name]}, the stand-in's {arguments}")
    return lines


if __name__ == "__main__":
    found = differences(Path(sys.argv[1]))
    print("\n".join(found))
    sys.exit(bool(found))
