"""Whatever a folder holds: `check`, `train` and `segment` name what is bad and do the rest."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wnet_nb import checkpoint
from wnet_nb.cli.main import main
from wnet_nb.files.result import Result
from wnet_nb.model import WNet3D

ROOT = Path(__file__).resolve().parents[2]
TINY = ["base_channels=4", "epochs=1", "batch_size=2", "patch_size=16", "patches_per_volume=2"]
SET = [word for one in [*TINY, "cell_radius_um=3"] for word in ("--set", one)]


def stack(dtype="uint16", shape=(20, 24, 28)):
    image = np.random.default_rng(0).integers(0, 60, shape)
    image[..., 5:10, 5:12, 6:14] += 60
    return image.astype(dtype)


def write(path, array, **options):
    tifffile.imwrite(path, array, **({"photometric": "minisblack"} | options))


def cut(path, part):
    write(path, stack(), compression="zlib")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])


def cut_in_offsets(path):
    """Keep the last page's tags and lose the places of its strips, which lie at the end."""
    tifffile.imwrite(path, stack(), rowsperstrip=1, metadata=None, compression="zlib")
    with tifffile.TiffFile(path) as tif:
        where = tif.pages[-1].tags[273].valueoffset
    path.write_bytes(path.read_bytes()[: where + 8])


def png(path):
    import matplotlib.image

    matplotlib.image.imsave(path, stack(shape=(1, 24, 28))[0], format="png")


def wrong_axes(path):
    write(path, stack(), ome=True, metadata={"axes": "ZYX"})
    xml = tifffile.tiffcomment(path).replace('DimensionOrder="XYCZT"', 'DimensionOrder="XYWQR"')
    tifffile.tiffcomment(path, xml)


def unknown_axes(path):
    write(path, stack(shape=(2, 9, 24, 28)), metadata={"axes": "LZYX"})


def huge_claim(path):
    write(path, stack(), compression="zlib", metadata=None)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        for page in tif.pages:
            for code in (256, 257):  # width and length: 4 exabytes in all
                entry = page.tags[code].offset
                struct.pack_into("<HIxxxx", content, entry + 2, 4, 1)
                struct.pack_into("<I", content, entry + 8, 2**30)
    path.write_bytes(content)


def with_values(path, *values):
    array = stack("float32")
    array[3, 3, : len(values)] = values
    write(path, array)


# What makes the file, and a word of what is said of it. Those of USABLE may be trained on.
REFUSED = {
    "no bytes": (lambda p: p.write_bytes(b""), "cannot be read as a TIFF"),
    "cut in the header": (lambda p: p.write_bytes(b"II*\0\x08"), "cannot be read as a TIFF"),
    "cut in the offsets": (cut_in_offsets, "again"),
    "cut in the data": (lambda p: cut(p, 0.5), "incomplete"),
    "cut near the end": (lambda p: cut(p, 0.98), "incomplete"),
    "a PNG": (png, "cannot be read as a TIFF"),
    "a text": (lambda p: p.write_text("no image"), "cannot be read as a TIFF"),
    "2D": (lambda p: write(p, stack()[0]), "2D image"),
    "one slice": (lambda p: write(p, stack()[:1]), "2D image"),
    "RGB": (
        lambda p: write(p, stack("uint8", (20, 24, 28, 3)), photometric="rgb"),
        "colour (RGB)",
    ),
    "4D": (
        lambda p: write(p, stack(shape=(20, 2, 24, 28)), imagej=True, metadata={"axes": "ZCYX"}),
        "2 channels",
    ),
    "5D": (
        lambda p: write(p, stack(shape=(2, 9, 2, 24, 28)), ome=True, metadata={"axes": "TZCYX"}),
        "choose one",
    ),
    "axes without a meaning": (unknown_axes, "axes without a known meaning"),
    "wrong axes": (wrong_axes, "cannot be read as a TIFF"),
    "complex": (lambda p: write(p, stack("complex64")), "complex64 values"),
    "constant": (lambda p: write(p, np.full((20, 24, 28), 7, "uint8")), "same value"),
    "zero": (lambda p: write(p, np.zeros((20, 24, 28), "uint16")), "same value"),
    "all NaN": (lambda p: write(p, np.full((20, 24, 28), np.nan, "float32")), "not finite"),
    "thin": (lambda p: write(p, stack()[:4]), "each axis needs at least"),
    "huge": (huge_claim, "does not fit into the memory"),
    "dangling link": (lambda p: p.symlink_to(p.with_name("gone.tif")), "does not exist"),
    "folder": (lambda p: p.mkdir(), ""),
    "NaN and infinite": (lambda p: with_values(p, np.nan, np.inf, -np.inf), "not finite"),
}
USABLE = {
    "bool": lambda p: write(p, stack() > 50),
    "signed": lambda p: write(p, stack("int16") - 80),
    "double": lambda p: write(p, stack("float64") / 7),
    "big numbers": lambda p: write(p, stack("uint32") * 2**20),
    "wrapped to 8 bit": lambda p: write(p, (stack("uint16") * 77).astype("uint8")),
    "big-endian": lambda p: write(p, stack(), byteorder=">", compression="lzw"),
}
NAMES = [
    "with space.tif",
    "Größe µm 細胞.tif",
    "-dash.tif",
    "<img src=x onerror=alert(1)>.tif",
    "100%d{x}.tif",
    "a.b.c.ome.tif",
    "'quoted' \"twice\".TIFF",
]


def run(capsys, *arguments):
    """Run the command line; return the exit status, and what was said to the user."""
    status = main([str(word) for word in arguments])
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return status, said.out, said.err


def everything_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "net.pth"
    checkpoint.save_cellseg3d_weights(path, WNet3D(2, base_channels=4))
    return path


@pytest.mark.parametrize("kind", REFUSED)
def test_a_bad_file_is_refused_by_every_verb_and_nothing_is_written(tmp_path, capsys, model, kind):
    make, words = REFUSED[kind]
    path = tmp_path / "bad.tif"
    make(path)
    status, out, err = run(capsys, "check", path, "--preset", "scratch")
    assert status in (1, 2) and words in out + err
    before = everything_below(tmp_path)
    for verb in (["train", path, "--run", tmp_path / "run", *SET], ["segment", model, path]):
        status, _, err = run(capsys, *verb)
        assert status == 2 and err.strip().splitlines()[-1].startswith("wnet-nb: ")
    assert everything_below(tmp_path) == before, "nothing half-written"


@pytest.mark.parametrize("kind", USABLE)
def test_an_unusual_volume_is_read_and_checked(tmp_path, capsys, kind):
    USABLE[kind](tmp_path / "odd.tif")
    status, out, err = run(capsys, "check", tmp_path / "odd.tif", "--preset", "scratch")
    assert status == 0, err
    assert "20 × 24 × 28 voxels" in out
    assert ("wrapped around; export it again as 16 bit" in out) is (kind == "wrapped to 8 bit")


def test_unusual_volumes_of_odd_names_are_trained_on_and_segmented(tmp_path, capsys, model):
    folder, run_folder, cells = (tmp_path / name for name in ("in", "a run", "cells"))
    folder.mkdir()
    for kind, make in USABLE.items():
        make(folder / f"{kind}.tif")
    for name in NAMES:
        write(folder / name, stack(), metadata={"axes": "ZYX"})
    status, _, err = run(capsys, "train", folder, "--run", run_folder, "--preset", "scratch", *SET)
    assert status == 0, err
    assert (run_folder / "weights.safetensors").exists()
    words = ["--out", cells, "--set", "cell_radius_um=3"]
    status, _, err = run(capsys, "segment", model, folder, *words)
    assert status == 0, err
    results = Result.find_in(cells)
    files = {result.facts["file"] for result in results}
    assert files == {*NAMES, *(f"{kind}.tif" for kind in USABLE)}
    for result in results:
        assert np.isfinite(result.foreground()).all()
        assert result.labels().shape == (20, 24, 28)
        assert result.facts["count"] == len(result.cells())


@pytest.mark.parametrize("name", NAMES)
def test_an_odd_name_is_no_obstacle(tmp_path, capsys, name):
    write(tmp_path / name, stack(), metadata={"axes": "ZYX"})
    status, out, _ = run(capsys, "check", tmp_path, "--preset", "scratch", "--json")
    assert status == 0
    assert name in json.dumps(json.loads(out), ensure_ascii=False).replace('\\"', '"')


def test_all_bad_files_together_are_named_and_the_others_go_on(tmp_path, capsys, model):
    folder = tmp_path / "stacks"
    folder.mkdir()
    for kind, (make, _) in REFUSED.items():
        make(folder / f"bad {kind}.tif")
    for name in ("good one.tif", "<img src=x onerror=alert(1)>.tif"):
        write(folder / name, stack())
    status, out, _ = run(capsys, "check", folder, "--preset", "scratch")
    assert status == 0
    assert all(f"bad {kind}" in out for kind in REFUSED)
    status, _, err = run(
        capsys, "train", folder, "--run", tmp_path / "run", "--preset", "scratch", *SET
    )
    assert status == 0, err
    record = json.loads((tmp_path / "run" / "settings.json").read_text(encoding="utf-8"))
    assert len(record["inputs"]) == 2
    radius = ["--set", "cell_radius_um=3"]
    status, _, err = run(capsys, "segment", model, folder, "--out", tmp_path / "cells", *radius)
    written = {p.name for p in (tmp_path / "cells").iterdir() if p.is_dir()}
    assert written == {"<img src=x onerror=alert(1)>", "good one", "bad thin"}  # thin will do


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are others there")
def test_a_file_without_permission_is_named(tmp_path):
    """In a process that is not root, which may read everything."""
    folder, file = tmp_path / "folder", tmp_path / "a.tif"
    folder.mkdir(mode=0)
    write(file, stack())
    file.chmod(0)
    code = (
        "import os, sys\nfrom wnet_nb.files.volumes import find_volumes, read_volume\n"
        "from wnet_nb.cli.main import main\nfrom wnet_nb.errors import UserError\n"
        "import wnet_nb.cli.verbs\n"
        "os.chdir(sys.argv[1])\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "for read, path in ((read_volume, 'a.tif'), (find_volumes, 'folder')):\n"
        "    try: read(path)\n"
        "    except UserError as error: print(error)\n"
        "sys.stderr = sys.stdout\n"
        "for verb in ('check a.tif', 'train a.tif --run run', 'segment none a.tif'):\n"
        "    print(verb, main(verb.split()))"
    )
    tmp_path.chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True
    )
    said = done.stdout.splitlines()
    assert said[0] == "'a.tif' may not be read by you; ask its owner", done.stderr
    assert said[1] == "'folder' cannot be looked into (Permission denied); check it"
    assert "Traceback" not in done.stdout
    ends = [line for line in said if line[:-1] in ("check a.tif ", "train a.tif --run run ")]
    assert ends == ["check a.tif 1", "train a.tif --run run 2"] and said[-1][-1] == "2"
    assert sum("'a.tif' may not be read by you; ask its owner" in line for line in said) == 4
    assert everything_below(tmp_path) == ["a.tif", "folder"]
