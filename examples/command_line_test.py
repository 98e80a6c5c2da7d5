#!/usr/bin/env python3
"""The examples' command lines: what is wrong ends in one line on stderr, a status that is not 0, and no file left behind.

    examples/command_line_test.py build/examples
"""
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAMS = Path(sys.argv[1])
RECORD = 1 + 3 * 32 * 32


def run(folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [str(PROGRAMS / program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300, check=False)


def pictures(labels: list[int]) -> bytes:
    """CIFAR-10 records with these labels."""
    return b"".join(bytes([label]) + bytes((7 * i + label) % 256 for i in range(RECORD - 1)) for label in labels)


def write_inputs(folder: Path) -> None:
    (folder / "good.bin").write_bytes(pictures([i % 10 for i in range(24)]))
    (folder / "label.bin").write_bytes(pictures([3, 10]))
    (folder / "cut.bin").write_bytes(pictures([1, 2])[:-1])
    (folder / "empty.bin").write_bytes(b"")
    (folder / "many.pack").write_bytes(struct.pack("<I", 2**32 - 1) + b"abc")
    (folder / "long.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    (folder / "images").mkdir()
    (folder / "images" / "a.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (folder / "labels.csv").write_text("file,class\na.jpg,1\n")


# Arguments behind the model and the least work, and what the line has to say.
REFUSED = [
    *[(["--recipe", recipe], "unknown recipe step") for recipe in ("int9", "int8+", "+int8", "", "INT8")],
    (["--recipe", "int8+int8"], "quantized already"),
    # What no step of the recipe reads is not dropped without a word.
    *[
        (["--recipe", "int8", *option], option[0])
        for option in (
            ["--macs", "0.3"], ["--criterion", "l1"], ["--commit"], ["--round-to", "8"], ["--sparsity", "0.5"],
            ["--average-bits", "5"], ["--exact"], ["--learned"], ["--uniform"], ["--student", "2"], ["--bits", "2,2"],
            ["--finetune", "good.bin"], ["--max-drop", "1"], ["--max-bytes", "9"], ["--epochs", "2"],
        )
    ],  # fmt: skip
    (["--groups", "--recipe", "int8"], "--groups"),
    *[(["--threads", value], "--threads") for value in ("0", "-1", "1025", "two")],
    *[(["--batch", value], "--batch") for value in ("0", "-1", "1.5", "99999999999999999999")],
    *[(["--calibration-count", value], "--calibration-count") for value in ("0", "-1", "1.5")],
    *[(["--recipe", "auto", "--max-drop=" + value], "--max-drop") for value in ("-1", "nan", "inf")],
    *[(["--recipe", "auto", "--max-latency-ms=" + value], "--max-latency-ms") for value in ("0", "nan")],
    *[(["--recipe", "qat", "--bits", value], "--bits") for value in ("4", "4,4,4", "a,b")],
    *[([option, ""], option) for option in ("--weights", "--test", "--calibration", "--json", "--save", "--emit-c")],
    (["--weights", "none.safetensors"], "no such file"),
    (["--weights", "long.safetensors"], "header"),
    (["--test", "cut.bin"], "CIFAR-10 records"),
    (["--test", "empty.bin"], "CIFAR-10 records"),
    (["--test", "many.pack"], "truncated"),
    (["--test", "."], "a.jpg"),
    (["--test", "label.bin"], "10 classes"),
    (["--calibration", "label.bin"], "10 classes"),
    (["--recipe", "prune", "--finetune", "label.bin"], "10 classes"),
    (["--test", "good.bin", "--calibration", "good.bin", "--calibration-count", "24"], "none to test on"),
    # Found out before any work.
    *[([option, "none/out"], "no folder") for option in ("--json", "--export", "--samples", "--save")],
    *[([option, "images"], "is a folder") for option in ("--json", "--export", "--samples", "--save")],
    (["--save", "out", "--json", "./out"], "two results"),
]  # fmt: skip

OTHERS = [
    *[(program, []) for program in ("nuclei", "nuclei_student", "nuclei_tasks", "teacher_student", "two_towers",
                                    "fashion_qat", "lottery_ticket", "digits")],
    *[(program, ["none"]) for program in ("nuclei", "nuclei_student", "nuclei_tasks", "teacher_student", "two_towers",
                                          "lottery_ticket")],
    ("fashion_qat", ["--data", "none"]),
    ("digits", ["--train", "none", "--test", "none"]),
    ("digits", ["--train", "labels.csv", "--test", "labels.csv"]),
    ("digits", ["--train", "labels.csv", "--test", "labels.csv", "--json", "none/out"]),
    ("two_towers", [".", "--samples", "0"]),
    ("teacher_student", [".", "--epochs", "0"]),
    ("teacher_student", [".", "--attention", "nan"]),
    ("nuclei_student", [".", "--crop", "0"]),
    ("nuclei_tasks", [".", "--smaller", "nan"]),
]  # fmt: skip


def fault(result: subprocess.CompletedProcess, says: str) -> str:
    lines = result.stderr.strip().splitlines()
    if result.returncode not in (1, 2):
        return f"status {result.returncode}"
    if len(lines) != 1 or says not in lines[0] or len(lines[0]) > 500:
        return f"said {result.stderr!r}, not one line with {says!r}"
    return ""


def main() -> int:
    faults = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder)
        before = sorted(os.listdir(folder))
        least = ["--model", "resnet8", "--seconds", "0.1"]
        cases = [("zoo", [*least, *arguments], says) for arguments, says in REFUSED]
        cases += [("zoo", [], "--model is required"), ("zoo", ["--model", "none"], "no such model")]
        cases += [("zoo", ["--model", "resnet8", "--seconds=nan"], "--seconds")]
        cases += [(program, arguments, program) for program, arguments in OTHERS]
        for program, arguments, says in cases:
            if found := fault(run(folder, program, *arguments), says):
                faults.append(f"{program} {' '.join(arguments)}: {found}")
            if (now := sorted(os.listdir(folder))) != before:
                faults.append(f"{program} {' '.join(arguments)}: left {set(now) ^ set(before)}")
                before = now
        files = ["--test", "good.bin", "--calibration", "good.bin", "--calibration-count", "8"]
        kept = run(folder, "zoo", *least, *files, "--recipe", "int8", "--json", "out.json")
        if kept.returncode != 0 or kept.stderr or not (folder / "out.json").exists():
            faults.append(f"what is right is refused: {kept.stderr}")
        # What is no plain file is written to, not replaced.
        os.mkfifo(folder / "pipe")
        reader = os.open(folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        piped = run(folder, "zoo", *least, "--recipe", "float", "--json", "pipe")
        if piped.returncode != 0 or not os.read(reader, 1 << 20).startswith(b"{") or not (folder / "pipe").is_fifo():
            faults.append(f"a pipe: {piped.stderr}")
        os.close(reader)
    print("\n".join(faults) or f"{len(cases)} refused, each in a line")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
