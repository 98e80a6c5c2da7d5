#!/usr/bin/env python3
"""Short files, guarded headers, error ids that the index knows, types of one name each, and the format of .clang-format.

usage: house.py {lengths|headers|errors|names|merges|format} ROOT
"""
import pathlib
import re
import shutil
import subprocess
import sys

MAX_LINES = 400
FOLDERS = ("include", "src", "examples", "tests", "benchmarks")


def files(root, *suffixes):
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            inside = path.relative_to(root).parts
            if path.suffix in suffixes and not any(part.startswith("build") for part in inside):
                yield path


def lengths(root):
    for path in files(root, ".hpp", ".cpp"):
        count = path.read_text().count("\n")
        if count > MAX_LINES:
            yield f"{path.relative_to(root)}: {count} lines, at most {MAX_LINES}"


def headers(root):
    for path in files(root, ".hpp"):
        if not path.read_text().startswith("#pragma once"):
            yield f"{path.relative_to(root)}: does not start with #pragma once"
    include = root / "include"
    reached, waiting = set(), ["pare/pare.hpp"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += re.findall(r'#include "(pare/[^"]+)"', (include / name).read_text())
    for path in sorted(include.rglob("*.hpp")):
        if str(path.relative_to(include)) not in reached:
            yield f"{path.relative_to(root)}: pare/pare.hpp, which promises everything, does not reach it"


def errors(root):
    """Every id that the library throws is in docs/errors.md, and nothing else is."""
    index = set(re.findall(r"^\| `(pare\.[a-z]+\.\d+)`", (root / "docs" / "errors.md").read_text(), re.M))
    thrown = {}
    for folder in ("include", "src"):
        for path in sorted((root / folder).rglob("*.[hc]pp")):
            for line in path.read_text().splitlines():
                for found in re.findall(r'"(pare\.[a-z]+\.\d+)"', line.split("//")[0]):
                    thrown.setdefault(found, path.relative_to(root))
    for identifier in sorted(set(thrown) - index):
        yield f"{thrown[identifier]}: {identifier} is not in docs/errors.md"
    for identifier in sorted(index - set(thrown)):
        yield f"docs/errors.md: {identifier} is thrown nowhere"


SCOPES = re.compile(
    r"namespace\s*([\w:]*)\s*\{|(?:struct|class|enum class)\s+(\w+)(?:\s+final)?\s*(?::[^:;{}][^;{}]*)?\{|[{}]"
)


def types_of(path):
    """Types that a file defines, with their namespaces; those of anonymous namespaces and of other types are its own."""
    text = re.sub(r'//[^\n]*|"(?:\\.|[^"\\\n])*"', "", path.read_text())
    text = text.replace("PARE_NAMESPACE_BEGIN", "namespace pare {").replace("PARE_NAMESPACE_END", "}")
    scopes = []
    for found in SCOPES.finditer(text):
        if found[0] == "}":
            if scopes:
                scopes.pop()
            continue
        if found[2] and all(scopes):
            yield "::".join([*scopes, found[2]])
        scopes.append(found[1] or "")


def names(root):
    """One type, one definition: with two of a name in one namespace the linker keeps the functions of either."""
    known = {}
    for folder in ("include", "src"):
        for path in sorted((root / folder).rglob("*.[hc]pp")):
            for name in dict.fromkeys(types_of(path)):
                other = known.setdefault(name, path)
                if other != path:
                    yield f"{path.relative_to(root)}: {name} is also defined in {other.relative_to(root)}"


def layout(root):
    tool = shutil.which("clang-format-14") or shutil.which("clang-format")
    if not tool:
        yield "no clang-format: scripts/setup installs it"
        return
    version = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
    if " 14." not in version:
        print(f"skipped: the format is that of clang-format 14, this is {version.strip()}")
        sys.exit(77)
    paths = [str(path) for path in files(root, ".hpp", ".cpp")]
    result = subprocess.run([tool, "--dry-run", "-Werror", *paths], capture_output=True, text=True, check=False)
    for path in dict.fromkeys(re.findall(r"^(.*?):\d+:\d+: error", result.stderr, re.M)):
        yield f"{pathlib.Path(path).relative_to(root)}: run clang-format -i on it"


def merges(root):
    """No mark of a merge that was never finished."""
    listed = subprocess.run(["git", "-C", str(root), "ls-files"], capture_output=True, text=True, check=False).stdout
    for name in listed.splitlines():
        path = root / name
        if path.suffix in (".bin", ".png") or not path.is_file():
            continue
        if re.search(r"^(<{7} |>{7} )", path.read_text(errors="replace"), re.M):
            yield f"{name}: holds the marks of an unfinished merge"


CHECKS = {"merges": merges, "lengths": lengths, "headers": headers, "errors": errors, "names": names, "format": layout}
wrong = list(CHECKS[sys.argv[1]](pathlib.Path(sys.argv[2]).resolve()))
print("\n".join(wrong) or f"{sys.argv[1]}: nothing to mend")
sys.exit(bool(wrong))
