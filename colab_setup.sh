#!/usr/bin/env bash
# Sets wnet_nb up, then does what the verb says. Locally everything goes into .venv beside this
# file; on Google Colab into the running interpreter, and only what is missing there.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
venv=$root/.venv
stamp=$venv/wnet_nb_setup # written last: an environment without it was never finished
notebook=notebooks/WNet3D_local.ipynb

usage() {
    cat <<'TEXT'
bash colab_setup.sh              set up only (on Google Colab: install what is missing)
bash colab_setup.sh demo [...]   set up, then run the built-in example, e.g. demo --out DIR
bash colab_setup.sh test [...]   set up, then run the tests; takes pytest's arguments
bash colab_setup.sh lab [...]    set up, then open your own copy of the notebook in JupyterLab: in the
                                 folder this is called from, or in ~/wnet_nb if that is this one
TEXT
}

# fail STATUS MESSAGE
fail() {
    printf 'colab_setup.sh: %s\n' "$2" >&2
    exit "$1"
}

# Run pip and turn its failure into one line. Its progress bar is on stdout and stays visible;
# its warnings go to a file, which is shown only where the reason is not the network.
pip_install() {
    local python=$1 log
    shift
    log=$(mktemp)
    if [ -t 1 ]; then # with pip's progress bars, and the reason of a failure on the screen
        "$python" -m pip install --no-input --disable-pip-version-check "$@" 2>"$log" && rm -f -- "$log" && return
    else
        "$python" -m pip install --no-input --disable-pip-version-check --progress-bar off "$@" >"$log" 2>&1 &&
            rm -f -- "$log" && return
    fi
    if grep -qiE 'NewConnectionError|ConnectTimeout|ReadTimeout|name resolution|network is unreachable|connection (broken|refused|reset)|ProxyError' "$log"; then
        rm -f -- "$log"
        fail 1 "the package index cannot be reached; check the internet connection (or proxy) and run this again"
    fi
    cat -- "$log" >&2
    rm -f -- "$log"
    fail 1 "pip could not install the packages, for the reason above; when it is put right, run this again"
}

on_colab() {
    [ -n "${COLAB_RELEASE_TAG:-}" ] && return
    # The name "google" alone belongs to many packages, hence the two steps.
    python3 -c 'import sys; from importlib.util import find_spec as f; sys.exit(not (f("google") and f("google.colab")))' 2>/dev/null
}

# ---------------------------------------------------------------- on Google Colab

# Print what requirements.txt asks for and this interpreter lacks, and pin all that it has in the
# file $1, so that nothing which is installed can be exchanged as a dependency of something new.
missing_on_colab() {
    python3 - "$root/requirements.txt" "$1" <<'PYTHON'
import sys
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

KEPT = {"torch", "numpy", "ipywidgets"}  # exchanging them breaks the runtime or needs a restart
present = {}
for found in distributions():
    try:
        name = canonicalize_name(found.metadata["Name"])
        present.setdefault(name, str(Version(found.version)))  # the first on the path is imported
    except (InvalidVersion, TypeError):
        continue  # a broken leftover of an earlier install
replaced = set()
for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines():
    text = line.partition("#")[0].strip()
    if not text:
        continue
    asked = Requirement(text)
    name = canonicalize_name(asked.name)
    if name in present and asked.specifier.contains(present[name], prereleases=True):
        continue
    if name in KEPT:
        has = f"has {name} {present[name]}" if name in present else f"lacks {name}"
        sys.exit(
            f"colab_setup.sh: this runtime {has} and {text} is needed; choose the newest runtime "
            "version in Runtime > Change runtime type, and run this again"
        )
    replaced.add(name)
    print(text)
pins = [f"{name}=={version}" for name, version in present.items() if name not in replaced]
Path(sys.argv[2]).write_text("\n".join(pins) + "\n", encoding="utf-8")
PYTHON
}

set_up_colab() {
    local pins missing wanted=()
    pins=$(mktemp)
    missing=$(missing_on_colab "$pins") || exit 1
    while IFS= read -r line; do
        [ -z "$line" ] || wanted+=("$line")
    done <<<"$missing"
    if [ ${#wanted[@]} -gt 0 ]; then
        echo "Installing what this runtime lacks: ${wanted[*]}"
        pip_install python3 --constraint "$pins" "${wanted[@]}"
    fi
    rm -f -- "$pins"
    # Not editable: the running interpreter would find an editable package only after a restart.
    pip_install python3 --no-deps "$root"
}

# ---------------------------------------------------------------- everywhere else

# Print the name of a Python that can make the environment.
find_python() {
    local candidate version too_old="" no_venv=""
    for candidate in python3 python3.13 python3.12 python3.11 python; do
        version=$("$candidate" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || continue
        case $version in
            [0-2].* | 3.[0-9].* | 3.10.*) too_old=${too_old:-$version} ;;
            *)
                if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
                    echo "$candidate"
                    return
                fi
                no_venv=${no_venv:-python${version%.*}}
                ;;
        esac
    done
    [ -z "$no_venv" ] || fail 1 "$no_venv cannot make environments; install its venv part (Debian, Ubuntu: sudo apt install $no_venv-venv) and run this again"
    fail 1 "Python 3.11 or newer is needed, found: ${too_old:-none}; install Python 3.13 from python.org or your package manager and run this again"
}

venv_python() {
    if [ -x "$venv/Scripts/python.exe" ]; then # Git Bash on Windows
        echo "$venv/Scripts/python.exe"
    else
        echo "$venv/bin/python"
    fi
}

# What an environment depends on, in two lines: what only a new one can follow (the interpreter,
# which a system upgrade exchanges, and the folder, which is written into its scripts), and the files
# that say what goes into it.
environment_key() {
    "$(venv_python)" -c 'import sys; print("%d.%d %s" % (*sys.version_info[:2], sys.argv[1]))' "$root" 2>/dev/null || echo "no interpreter"
    cat "$root/requirements.txt" "$root/constraints.txt" "$root/pyproject.toml" | cksum
}

# set_up_local [EXTRA]
set_up_local() {
    local extra=${1:-} key recorded="" extras="" python
    key=$(environment_key)
    [ ! -f "$stamp" ] || recorded=$(cat -- "$stamp")
    if [ "$(head -n 2 <<<"$recorded")" = "$key" ]; then
        extras=$(sed -n 3p <<<"$recorded")
        case ",,$extras," in *",$extra,"*) return ;; esac # no extra is in every list
    elif [ "$(head -n 1 <<<"$recorded")" != "$(head -n 1 <<<"$key")" ]; then
        if [ -e "$venv" ] && [ ! -f "$venv/pyvenv.cfg" ]; then
            fail 1 "$venv exists and is not a Python environment; move it away and run this again"
        fi
        python=$(find_python)
        echo "Making the environment in $venv"
        rm -rf -- "$venv"
        "$python" -m venv "$venv" || fail 1 "$python could not make the environment in $venv, for the reason above"
    fi
    rm -f -- "$stamp" # a break from here on makes the environment half-made
    python=$(venv_python)
    [ -z "$extra" ] || extras=${extras:+$extras,}$extra
    echo "Installing the tested set of packages; the first time this takes some minutes"
    # The build tool comes first and pinned too, so that nothing is fetched outside the constraints.
    pip_install "$python" --constraint "$root/constraints.txt" setuptools
    # compat: a plain path, which also counts for a script that lies beside this folder.
    pip_install "$python" --constraint "$root/constraints.txt" --no-build-isolation \
        --config-settings editable_mode=compat --editable "$root${extras:+[$extras]}"
    printf '%s\n%s\n' "$(environment_key)" "$extras" >"$stamp"
}

# ---------------------------------------------------------------- the verbs

verb=${1:-}
[ $# -eq 0 ] || shift
case $verb in
    "" | demo | test | lab) ;;
    -h | --help | help)
        usage
        exit
        ;;
    *) fail 2 "'$verb' is not one of demo, test, lab; without a verb it only sets up" ;;
esac

if on_colab; then
    case $verb in
        lab | test) fail 2 "'$verb' is for your own computer; on Google Colab open notebooks/WNet3D_colab.ipynb" ;;
    esac
    set_up_colab
    python=python3
else
    case $verb in
        test | lab) set_up_local "$verb" ;;
        *) set_up_local ;;
    esac
    python=$(venv_python)
fi

case $verb in
    "") usage ;;
    # From the caller's folder, so that `--out DIR` means what it says there; -P keeps Python files
    # in that folder from being imported in place of the packages.
    demo) exec "$python" -P -m wnet_nb demo "$@" ;;
    # From the project's folder, to which the names that pytest prints are relative.
    test) cd -- "$root" && exec "$python" -m pytest "$@" ;;
    # In the user's own folder, where the runs land, with a copy that is made once and never touched
    # again: what is filled in and run there changes nothing in this one. -P as above.
    lab)
        case $PWD/ in "$root"/*) mkdir -p -- "$HOME/wnet_nb" && cd -- "$HOME/wnet_nb" ;; esac
        own=${notebook##*/}
        [ -e "$own" ] || cp -- "$root/$notebook" "$own"
        [ "$(cksum <"$root/$notebook")" = "$(cksum <"$own")" ] ||
            echo "Opening your copy of the notebook as you left it; delete or rename it to get a fresh one: $PWD/$own"
        exec "$python" -P -m jupyterlab "$own" "$@"
        ;;
esac
