"""`colab_setup.sh` run for real, with a stand-in `python3` that records what it is asked to do.

The stand-in makes environments, and "installs" and runs packages, by writing a line to a log; only
short snippets (`-c`, and the script's own program on stdin) reach a real interpreter. PATH holds it
and a few system tools, so no other Python on the machine can be found.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import packaging
import pytest

ROOT = Path(__file__).resolve().parents[2]
INPUTS = ("requirements.txt", "constraints.txt", "pyproject.toml")
TOOLS = "bash cat chmod cksum cp dirname env grep head mkdir mktemp rm sed touch".split()

STAND_IN = r"""#!/usr/bin/env bash
here="import sys
if '$AS_VERSION': sys.version_info = tuple(map(int, '$AS_VERSION'.split('.')))
if '$NO_VENV': sys.modules['ensurepip'] = None
exec(sys.argv.pop(1))"
case "$1" in
    -c) shift; exec "$REAL_PYTHON" -S -c "$here" "$@" ;;
    -) exec "$REAL_PYTHON" -S "$@" ;;
esac
{ printf '%s' "$PWD"; printf '\t%s' "$@"; echo; } >>"$LOG"
case "$1 $2" in
    "-m venv") mkdir -p "$3/bin"; touch "$3/pyvenv.cfg"; cp "$0" "$3/bin/python" ;;
    "-m pip")
        while [ $# -gt 0 ]; do
            [ "$1" != --constraint ] || cat "$2" >"$LOG.constraint"
            shift
        done
        if [ -n "$PIP_SAYS" ]; then echo "$PIP_SAYS" >&2; exit 1; fi ;;
esac
"""

# What Google Colab brings, as far as the requirements go.
COLAB = {
    "torch": "2.11.0+cu128",
    "numpy": "2.1.3",
    "scipy": "1.16.3",
    "scikit-image": "0.25.2",
    "matplotlib": "3.10.0",
    "pillow": "11.3.0",
    "ipywidgets": "7.7.1",
    "tifffile": "2025.10.16",
    "tqdm": "4.67.1",
    "gdown": "5.2.2",
    "safetensors": "0.7.0",
    "psutil": "5.9.5",
    "jinja2": "3.1.6",
    "pooch": "1.8.2",
    "requests": "2.32.4",
    "filelock": "3.20.0",
}


class Machine:
    """A folder with a copy of the project, a stand-in Python and a log of what it was asked."""

    def __init__(self, folder):
        self.project, self.caller = folder / "the project", folder / "caller"
        self.log, self.venv = folder / "log", self.project / ".venv"
        tools, self.runtime = folder / "bin", folder / "runtime"
        for made in (self.project, self.caller, tools, self.runtime):
            made.mkdir()
        for name in (*INPUTS, "colab_setup.sh"):
            shutil.copy(ROOT / name, self.project)
        (self.project / "notebooks").mkdir()
        shutil.copy(ROOT / "notebooks" / "WNet3D_local.ipynb", self.project / "notebooks")
        for name in TOOLS:
            (tools / name).symlink_to(shutil.which(name))
        (tools / "python3").write_text(STAND_IN)
        (tools / "python3").chmod(0o755)
        self.env = {
            "PATH": str(tools),
            "REAL_PYTHON": sys.executable,
            "LOG": str(self.log),
            "TMPDIR": str(folder),
            "PYTHONPATH": str(self.runtime),
        }

    def set_up(self, *arguments, **env):
        """Run the script in the caller's folder; return it with the lines it logged as `.calls`."""
        self.log.write_text("")
        done = subprocess.run(
            ["bash", os.path.relpath(self.project / "colab_setup.sh", self.caller), *arguments],
            cwd=self.caller,
            env=self.env | env,
            capture_output=True,
            text=True,
        )
        done.calls = [line.split("\t") for line in self.log.read_text().splitlines()]
        done.installs = [call for call in done.calls if call[1:3] == ["-m", "pip"]]
        done.made = any(call[1:3] == ["-m", "venv"] for call in done.calls)
        return done

    def become_colab(self, **versions):
        """Give the stand-in Google Colab's packages; None takes one away."""
        (self.runtime / "google" / "colab").mkdir(parents=True)
        (self.runtime / "google" / "colab" / "__init__.py").touch()
        (self.runtime / "packaging").symlink_to(Path(packaging.__file__).parent)
        for name, version in (COLAB | versions).items():
            if version:
                info = self.runtime / f"{name.replace('-', '_')}-{version}.dist-info"
                info.mkdir()
                text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
                (info / "METADATA").write_text(text)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def assert_one_line(done, status, *words):
    assert done.returncode == status
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("colab_setup.sh: ")
    assert all(word in done.stderr for word in words), done.stderr


def test_a_wrong_verb_ends_with_one_line_and_status_2(machine):
    done = machine.set_up("dmeo")
    assert_one_line(done, 2, "'dmeo'", "demo", "test", "lab")
    assert done.calls == [] and not machine.venv.exists()


def test_without_a_verb_it_sets_up_and_says_what_else_it_can_do(machine):
    done = machine.set_up()
    assert done.returncode == 0 and done.made
    assert all(f"colab_setup.sh {verb}" in done.stdout for verb in ("demo", "test", "lab"))


def test_the_demo_gets_further_arguments_and_runs_in_the_callers_folder(machine):
    done = machine.set_up("demo", "--out", "my results")
    assert done.returncode == 0, done.stderr
    call = [str(machine.caller), "-P", "-m", "wnet_nb", "demo", "--out", "my results"]
    assert done.calls[-1] == call


def test_the_tests_run_in_the_projects_folder_with_their_extra(machine):
    done = machine.set_up("test", "-k", "one")
    assert done.calls[-1] == [str(machine.project), "-m", "pytest", "-k", "one"]
    assert done.installs[-1][-1] == f"{machine.project}[test]"


def test_lab_opens_a_copy_in_the_users_folder_and_never_touches_it_again(machine):
    done = machine.set_up("lab", "--no-browser")
    command = ["-P", "-m", "jupyterlab", "WNet3D_local.ipynb", "--no-browser"]
    assert done.calls[-1] == [str(machine.caller), *command]
    assert done.installs[-1][-1] == f"{machine.project}[lab]"
    own, original = machine.caller / command[3], machine.project / "notebooks" / command[3]
    assert own.read_bytes() == original.read_bytes()
    own.write_text("as the user left it")
    assert str(own) in machine.set_up("lab").stdout
    assert own.read_text() == "as the user left it"
    assert original.read_bytes() == (ROOT / "notebooks" / command[3]).read_bytes()


@pytest.mark.parametrize("place", ["", "notebooks"])
def test_lab_called_from_the_checkout_works_in_a_folder_of_the_users_home(machine, place):
    machine.caller = machine.project / place
    done = machine.set_up("lab", HOME=str(machine.log.parent / "home"))
    folder = machine.log.parent / "home" / "wnet_nb"
    assert done.calls[-1][0] == str(folder)
    assert [path.name for path in folder.iterdir()] == ["WNet3D_local.ipynb"]


def test_everything_is_installed_under_the_constraints(machine):
    for call in machine.set_up("test").installs:
        assert call[call.index("--constraint") + 1] == str(machine.project / "constraints.txt")


def test_a_finished_environment_is_used_as_it_is(machine):
    machine.set_up("test")
    again = machine.set_up("demo")
    assert not again.made and again.installs == []


def test_an_extra_is_added_to_a_finished_environment_once(machine):
    machine.set_up("demo")
    added, again = machine.set_up("test"), machine.set_up("test")
    assert not added.made and added.installs and again.installs == []
    assert machine.set_up("lab").installs[-1][-1] == f"{machine.project}[test,lab]"


@pytest.mark.parametrize("name", INPUTS)
def test_a_change_of_what_is_asked_for_is_installed_into_the_environment(machine, name):
    machine.set_up("demo")
    with (machine.project / name).open("a") as file:
        file.write("# changed\n")
    changed, again = machine.set_up("demo"), machine.set_up("demo")
    assert changed.installs and not changed.made and again.installs == []


def test_another_python_version_makes_the_environment_anew(machine):
    machine.set_up("demo", AS_VERSION="3.11.9")
    assert machine.set_up("demo", AS_VERSION="3.12.1").made


def test_an_environment_that_lost_its_python_is_made_anew(machine):
    machine.set_up("demo")
    (machine.venv / "bin" / "python").unlink()
    assert machine.set_up("demo").made


def test_a_half_made_environment_is_made_anew(machine):
    assert machine.set_up("demo", PIP_SAYS="no space left").returncode == 1
    (machine.venv / "leftover").touch()
    assert machine.set_up("demo").made
    assert not (machine.venv / "leftover").exists()


def test_an_environment_whose_renewal_broke_off_is_made_anew(machine):
    machine.set_up("demo")
    (machine.project / "constraints.txt").write_text("tqdm==4.67.1\n")
    assert machine.set_up("demo", PIP_SAYS="no space left").returncode == 1
    assert machine.set_up("demo").made


def test_a_folder_named_venv_that_is_no_environment_is_left_alone(machine):
    machine.venv.mkdir()
    (machine.venv / "thesis.tif").touch()
    assert_one_line(machine.set_up("demo"), 1, str(machine.venv), "move it away")
    assert (machine.venv / "thesis.tif").exists()


def test_a_python_that_is_too_old_is_named_with_what_to_install(machine):
    done = machine.set_up("demo", AS_VERSION="3.9.2")
    assert_one_line(done, 1, "3.9.2", "install Python 3.13")
    assert not machine.venv.exists()


def test_a_newer_python_beside_an_old_one_is_found(machine):
    tools = Path(machine.env["PATH"])
    newer = STAND_IN.replace("#!/usr/bin/env bash", "#!/usr/bin/env bash\nAS_VERSION=3.12.4", 1)
    (tools / "python3.12").write_text(newer)
    (tools / "python3.12").chmod(0o755)
    assert machine.set_up("demo", AS_VERSION="3.9.2").returncode == 0
    assert (machine.venv / "wnet_nb_setup").read_text().startswith("3.12 ")


def test_a_python_without_venv_is_told_which_package_brings_it(machine):
    done = machine.set_up("demo", NO_VENV="1", AS_VERSION="3.11.2")
    assert_one_line(done, 1, "apt install python3.11-venv")


def test_no_network_is_said_in_one_line(machine):
    retry = "WARNING: Retrying after connection broken by 'NewConnectionError(...)': /simple/torch/"
    assert_one_line(machine.set_up("demo", PIP_SAYS=retry), 1, "internet connection")


def test_any_other_failure_of_pip_keeps_its_reason(machine):
    done = machine.set_up("demo", PIP_SAYS="ERROR: No space left on device")
    assert done.returncode == 1
    reason, advice = done.stderr.splitlines()
    assert "No space left" in reason and "run this again" in advice


def test_on_colab_only_what_is_missing_is_installed_and_all_else_is_pinned(machine):
    machine.become_colab(gdown=None, tqdm="4.2.0")
    done = machine.set_up()
    assert done.returncode == 0, done.stderr
    missing, package = done.installs
    assert missing[missing.index("--constraint") + 2 :] == ["tqdm>=4.66", "gdown>=5.2.2,<7"]
    assert package[-2:] == ["--no-deps", str(machine.project)]
    pins = Path(f"{machine.log}.constraint").read_text().split()
    kept = {name: version for name, version in COLAB.items() if name not in ("gdown", "tqdm")}
    assert set(pins) == {f"{name}=={version}" for name, version in kept.items()}
    assert not done.made and not machine.venv.exists()


def test_on_colab_with_everything_there_only_the_package_itself_is_installed(machine):
    machine.become_colab()
    done = machine.set_up("demo")
    assert [call[-2:] for call in done.installs] == [["--no-deps", str(machine.project)]]
    assert done.calls[-1][1:] == ["-P", "-m", "wnet_nb", "demo"]


def test_colab_is_known_by_its_release_tag_too(machine):
    machine.become_colab()
    shutil.rmtree(machine.runtime / "google")
    assert not machine.set_up(COLAB_RELEASE_TAG="release-colab-20260815").made


@pytest.mark.parametrize(("name", "version"), [("torch", "2.9.1+cu126"), ("ipywidgets", None)])
def test_on_colab_an_unfit_torch_or_widget_library_is_reported_never_replaced(
    machine, name, version
):
    machine.become_colab(**{name: version})
    done = machine.set_up()
    assert_one_line(done, 1, name, "Change runtime type")
    assert done.installs == []


@pytest.mark.parametrize("verb", ["lab", "test"])
def test_on_colab_the_verbs_for_ones_own_computer_are_refused(machine, verb):
    machine.become_colab()
    done = machine.set_up(verb)
    assert_one_line(done, 2, verb, "WNet3D_colab.ipynb")
    assert done.calls == []
