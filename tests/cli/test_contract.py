"""The command line is a contract: its commands and options are here in full, so that none comes or goes unseen."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.launches import SWEEP, normhpc
from typer.main import get_command

from normhpc.cli import app

CONTRACT = {
    "sweep": "SWEEP.yaml --dry-run --follow --json --limit --local --max-gpu-hours --only --partition --profile --prune "
    "--retry-failed --runs --set --slots --smoke",
    "expand": "SWEEP.yaml --count --only --set",
    "status": "SWEEP|DIR --json --runs --watch",
    "logs": "RUN --follow --runs -f",
    "cancel": "TARGET --runs",
    "retry": "TARGET --runs --why",
    "collect": "DIR --by --format --metric --out --per-run --rebuild --strict",
    "report": "DIR --metric --out --verify",
    "train": "RUN_DIR",
    "predict": "RUN --batch-size --images --out --probabilities --runs --weights",
    "analyze": "RUN --again --device --dry-run --follow --images --partition --profile --runs --set --weights --what",
    "list": "norms|models|data|sweeps --json",
    "shards": "info|verify DIR --json",
    "schema": "sweep|run|profile",
    "doctor": "--json --runs",
}


def spelled(command: object) -> str:
    words = []
    for parameter in command.params:  # type: ignore[attr-defined]
        is_option = parameter.param_type_name == "option"
        words += [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.metavar]
    options = sorted(word for word in words if word.startswith("-") and word not in ("-h", "--help"))
    return " ".join([*[word for word in words if not word.startswith("-")], *options])


def test_commands_and_options() -> None:
    assert {name: spelled(command) for name, command in get_command(app).commands.items()} == CONTRACT


@pytest.mark.parametrize("command", ["", *CONTRACT])
def test_help(command: str) -> None:
    answers = [normhpc(*command.split(), flag) for flag in ("--help", "-h")]
    assert answers[0] == answers[1]
    assert (answers[0].code, answers[0].err) == (0, "")
    wanted = CONTRACT if command == "" else [word for word in CONTRACT[command].split() if word.startswith("-")]
    assert [word for word in wanted if word not in answers[0].out] == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("frobnicate", "No such command 'frobnicate'."),
        ("sweep", "Missing argument 'SWEEP.yaml'."),
        ("sweep x.yaml --frob", "No such option: --frob"),
        ("sweep x.yaml --local --slots 0", "Invalid value for '--slots': Input should be greater than or equal to 1"),
        ("sweep x.yaml --local --limit many", "Invalid value for '--limit': Input should be a valid integer"),
        (
            "sweep x.yaml --local --max-gpu-hours -1",
            "Invalid value for '--max-gpu-hours': Input should be greater than or equal to 0",
        ),
        ("list frogs", "'frogs' is not one of 'norms', 'models', 'data', 'sweeps'"),
        ("schema frog", "'frog' is not one of 'sweep', 'run', 'profile'"),
        ("collect --format docx", "'docx' is not one of"),
    ],
)
def test_usage_errors(arguments: str, text: str) -> None:
    answer = normhpc(*arguments.split())
    assert (answer.code, answer.out) == (2, "")
    told = " ".join(answer.err.replace("│", " ").split())
    assert text in told
    assert "Traceback" not in told


TORCH_FREE = """
import contextlib, io, sys
from normhpc import cli

def call(line):
    sys.argv = ["normhpc", *line.split()]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        cli.main()
    loaded = sorted({"torch", "torchvision", "submitit", "sklearn"} & set(sys.modules))
    print(line, *loaded, sep=": ")

for line in sys.stdin.read().splitlines():
    call(line)
"""


def test_what_plans_and_watches_loads_no_torch_and_needs_no_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    Path("fakes.yaml").write_text(SWEEP)
    lines = [
        "--help",
        "sweep fakes.yaml --dry-run",
        "sweep fakes.yaml --dry-run --json",
        "expand fakes.yaml",
        "list norms",
        "list models",
        "list data",
        "list sweeps",
        "schema run",
        "schema sweep",
        "doctor",
        "status fakes.yaml",
        "logs 0123",
        "analyze 0123 --what confusion",
        "analyze 0123 --what frog",
        "collect",
    ]
    done = subprocess.run(
        [sys.executable, "-c", TORCH_FREE], input="\n".join(lines), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == lines
    assert sorted(map(str, Path().iterdir())) == ["fakes.yaml"]


def test_help_loads_next_to_nothing() -> None:
    script = (
        "import sys, contextlib, io; from normhpc import cli; sys.argv = ['normhpc', '--help']\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): cli.main()\n"
        "print(*sorted({'pydantic', 'yaml', 'pandas', 'numpy', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
