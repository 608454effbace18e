"""The README is checked against the package; run as a program, this renews its table of options."""

import re
from pathlib import Path

from tests.benchmarks.nuclei import make_nuclei
from wnet_nb import config
from wnet_nb.cli.main import build_parser
from wnet_nb.files.writing import write_volume

README = Path(__file__).resolve().parents[2] / "README.md"
TABLE = re.compile(r"(<!-- options: .*? -->\n)(.*?)(<!-- end of options -->)", re.DOTALL)
TINY = "epochs=1, patch_size=16, patches_per_volume=2, tile_size=32"


def option_table():
    """Return the table of every option, group by group, as Markdown."""
    lines = []
    for group, title in config.GROUPS.items():
        lines += [f"**{title}**", ""]
        lines += ["| option | default | `quick` | what it is | raise it when | lower it when |"]
        lines += ["|---|---|---|---|---|---|"]
        for name, option in config.OPTIONS.items():
            if option.group == group:
                quick = config.PRESETS["quick"].get(name)
                values = [_text(config.DEFAULTS[name]), "" if quick is None else _text(quick)]
                unit = f" ({option.unit})" if option.unit else ""
                cells = [f"`{name}`", *values, option.help.rstrip(".") + unit]
                lines.append(f"| {' | '.join([*cells, option.raise_when, option.lower_when])} |")
        lines.append("")
    return "\n".join(lines)


def _text(value):
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def code(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_the_table_of_options_is_what_the_package_has():
    found = TABLE.search(README.read_text(encoding="utf-8"))
    assert found[2] == option_table(), "run: python tests/project/test_readme.py"


def test_the_two_commands_stand_on_the_first_screen():
    first = "\n".join(README.read_text(encoding="utf-8").splitlines()[:25])
    assert "bash colab_setup.sh demo" in first and "bash colab_setup.sh test" in first


def test_every_command_of_the_readme_is_understood():
    commands = [line for block in code("bash") for line in block.splitlines()]
    ours = [c.removeprefix("python -m wnet_nb ") for c in commands if "wnet_nb" in c]
    assert len(ours) >= 3
    for command in ours:
        assert build_parser().parse_args(command.split()).verb == command.split()[0]


def test_the_python_of_the_readme_trains_and_segments(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    image, _ = make_nuclei(shape=(32, 32, 32), n_cells=8)
    write_volume("my_tiffs/a.tif", image, voxel_size_um=(1, 1, 1))
    train, segment, *_ = code("python")
    exec(train.replace('preset("quick")', f'preset("quick", {TINY})'), {})
    exec(segment, {})
    assert re.search(r"a \d+ cells in runs/first/predictions/a", capsys.readouterr().out)
    assert Path("runs/first/predictions/a/labels.tif").exists()


def test_every_promise_names_tests_that_exist():
    text = README.read_text(encoding="utf-8")
    promises = text.partition("## What you can rely on")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(test_\w+)`", promises))
    tests = README.with_name("tests").rglob("test_*.py")
    known = set(re.findall(r"^def (test_\w+)", "\n".join(t.read_text() for t in tests), re.M))
    assert len(named) >= 12 and named <= known


def test_training_and_segmenting_take_three_lines_each():
    for block in code("python"):
        assert len([line for line in block.splitlines() if line.strip()]) <= 3


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    README.write_text(TABLE.sub(lambda m: m[1] + option_table() + m[3], text), encoding="utf-8")
