#!/usr/bin/env python3
"""A file may include only lower layers and its own folder: docs/architecture.md has the table."""
import pathlib
import re
import sys

LAYER = {name: number for number, names in enumerate(
    ["core", "numerics", "graph", "capture execute onnx checkpoint", "mcu pass", "analysis", "plan", "fuse",
     "quantize prune distill", "pipeline"], start=1) for name in names.split()}
INCLUDE = re.compile(r'^\s*#\s*include\s+"(?:pare/)?([\w/.-]+)"')

root = pathlib.Path(sys.argv[1])
wrong = []
for base in (root / "include" / "pare", root / "src"):
    for path in sorted(base.rglob("*.[hc]pp")):
        parts = path.relative_to(base).parts
        if len(parts) == 1:  # version.hpp, the umbrella, the library's own translation unit
            continue
        area = parts[0]
        if area not in LAYER:
            wrong.append(f"{path.relative_to(root)}: the folder {area} has no layer")
            continue
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            found = INCLUDE.match(line)
            if not found or found[1] == "version.hpp":
                continue
            other = found[1].split("/")[0]
            where = f"{path.relative_to(root)}:{number}"
            if "/" not in found[1] and (path.parent / found[1]).exists():
                continue
            if "/" not in found[1] or other not in LAYER:
                wrong.append(f"{where}: {found[1]} is not a path of this project")
            elif other != area and LAYER[other] >= LAYER[area]:
                wrong.append(f"{where}: {area} (layer {LAYER[area]}) includes {other} (layer {LAYER[other]})")
print("\n".join(wrong) or "every include points to a lower layer")
sys.exit(bool(wrong))
