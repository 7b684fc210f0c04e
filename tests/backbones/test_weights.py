import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor

from scenewise.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone, create_backbone, load_backbone, save_backbone
from scenewise.backbones import weights as weights_module
from scenewise.errors import UserError

WRITE = """
import sys
from scenewise.backbones import create_backbone, save_backbone
backbone = create_backbone("resnet18", seed=3)
save_backbone(sys.argv[1], backbone, size=96, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), method="mls")
"""


def save(path: Path, backbone: Backbone, *, size: int = 64) -> Path:
    save_backbone(path, backbone, size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD, method="mls")
    return path


def same_weights(first: Backbone, second: Backbone) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    ("name", "stem", "norm"),
    [
        ("resnet18", "imagenet", "batch"),
        ("resnet18", "cifar", "group"),
        ("resnet18", "cifar-pool", "batch"),
        ("vit_tiny_patch16_224", "imagenet", "batch"),
        ("convnext_atto", "imagenet", "batch"),
    ],
)
def test_what_is_saved_is_loaded(tmp_path: Path, name: str, stem: str, norm: str) -> None:
    backbone = create_backbone(name, stem=stem, norm=norm, seed=5, size=64)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    save_backbone(tmp_path / "weights.safetensors", backbone, size=64, mean=mean, std=std, method="mls")
    loaded = load_backbone(tmp_path / "weights.safetensors")
    assert same_weights(backbone, loaded)
    assert not loaded.training
    assert (loaded.name, loaded.stem, loaded.norm, loaded.width) == (name, stem, norm, backbone.width)
    info = loaded.weights
    assert (info.size, info.mean, info.std, info.method) == (64, mean, std, "mls")
    assert info.version
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images), backbone.eval()(images))


def test_a_run_folder_is_its_backbone(tmp_path: Path) -> None:
    backbone = create_backbone("resnet18", seed=1)
    save(tmp_path / "backbone.safetensors", backbone)
    assert same_weights(load_backbone(tmp_path), backbone)
    with pytest.raises(UserError, match=r"holds no backbone\.safetensors"):
        load_backbone(tmp_path.parent)


def test_the_keys_are_timms(tmp_path: Path) -> None:
    file = save(tmp_path / "weights.safetensors", create_backbone("resnet18", seed=1))
    model = timm.create_model("resnet18", num_classes=0)
    model.load_state_dict(safetensors.torch.load_file(file), strict=True)


def test_identical_weights_are_identical_bytes_in_every_process(tmp_path: Path) -> None:
    backbone = create_backbone("resnet18", seed=3)
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    save_backbone(here, backbone, size=96, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), method="mls")
    subprocess.run([sys.executable, "-c", WRITE, str(there)], check=True)
    assert here.read_bytes() == there.read_bytes()


def test_the_header_is_sorted_and_the_tensors_are_aligned(tmp_path: Path) -> None:
    # Twenty entries in an order of chance are sorted once in 10^18 times, so this holds for one file alone.
    metadata = {f"entry {number}": "x" * number for number in range(20)}
    content = weights_module.safetensors_bytes({"b": torch.ones(3), "a": torch.arange(5)}, metadata)
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    header = json.loads(content[8 : 8 + length])
    assert list(header["__metadata__"]) == sorted(metadata)
    state = safetensors.torch.load(content)
    assert torch.equal(state["a"], torch.arange(5))
    assert torch.equal(state["b"], torch.ones(3))


def test_channels_last_weights_are_the_same_file(tmp_path: Path) -> None:
    plain = save(tmp_path / "plain.safetensors", create_backbone("resnet18", seed=1))
    turned = create_backbone("resnet18", seed=1).to(memory_format=torch.channels_last)
    assert save(tmp_path / "turned.safetensors", turned).read_bytes() == plain.read_bytes()


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = create_backbone("resnet18", seed=1)
    file = save(tmp_path / "weights.safetensors", backbone)
    before = file.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights_module.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(file, create_backbone("resnet18", seed=2))
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def foreign(tmp_path: Path, state: dict[str, Tensor], ending: str = ".pth") -> Path:
    file = tmp_path / f"foreign{ending}"
    if ending == ".safetensors":
        safetensors.torch.save_file(state, file)
    else:
        torch.save(state, file)
    return file


@pytest.mark.parametrize("ending", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_plain_state_dicts_of_others(tmp_path: Path, ending: str, library: str) -> None:
    model = timm.create_model("resnet18") if library == "timm" else torchvision.models.resnet18()
    file = foreign(tmp_path, model.state_dict(), ending)
    backbone = load_backbone(file, name="resnet18")
    model.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), model.eval()(images), rtol=1e-5, atol=1e-5)
    assert backbone.weights.version == ""
    with pytest.raises(UserError, match="which architecture"):
        load_backbone(file)


def test_training_scripts_wrap_their_state_dicts(tmp_path: Path) -> None:
    state = {f"module.{key}": value for key, value in timm.create_model("resnet18").state_dict().items()}
    file = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 3, "state_dict": state}, file)
    assert torch.equal(load_backbone(file, name="resnet18").model.conv1.weight, state["module.conv1.weight"])


def test_what_is_not_the_backbones_is_left_out(tmp_path: Path) -> None:
    backbone = create_backbone("resnet18", seed=1)
    state = backbone.model.state_dict() | {"projector.weight": torch.zeros(1)}
    assert same_weights(load_backbone(foreign(tmp_path, state), name="resnet18"), backbone)


def test_never_a_partial_load(tmp_path: Path) -> None:
    state = timm.create_model("resnet18", num_classes=0).state_dict()
    del state["layer1.0.conv1.weight"]
    state["surplus"] = torch.zeros(1)
    state["bn1.weight"] = torch.zeros(3)
    with pytest.raises(UserError) as caught:
        load_backbone(foreign(tmp_path, state), name="resnet18")
    message = str(caught.value)
    assert "missing: layer1.0.conv1.weight" in message
    assert "unexpected: surplus" in message
    assert "bn1.weight (3,) for (64,)" in message


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    state = timm.create_model("resnet18").state_dict()
    state["conv1.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match=r"not finite in conv1\.weight"):
        load_backbone(foreign(tmp_path, state), name="resnet18")


STRANGE = {
    "int64": lambda value: value.long(),
    "bool": lambda value: value > 0,
    "complex64": lambda value: value.to(torch.complex64),
    "sparse_coo": lambda value: value.to_sparse(),
    "meta": lambda value: value.to("meta"),
    "quantised": lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
    "nested": lambda value: torch.nested.nested_tensor(list(value)),
}


@pytest.mark.filterwarnings("ignore")  # torch's, on making and reading such tensors
@pytest.mark.parametrize("kind", STRANGE)
def test_weights_that_are_no_plain_floats(kind: str) -> None:
    state = timm.create_model("resnet18", num_classes=0).state_dict()
    strange = {key: STRANGE[kind](value) if value.ndim == 4 else value for key, value in state.items()}
    with pytest.raises(UserError, match=rf"floating-point.*: conv1\.weight \({kind}\), layer1.* and 14 more"):
        weights_module.fill(create_backbone("resnet18", seed=0), strange, source="file")


def test_strange_tensors_of_a_file(tmp_path: Path) -> None:
    state = {key: value.long() for key, value in torchvision.models.resnet18().state_dict().items()}
    with pytest.raises(UserError, match=r"foreign\.pth.*conv1\.weight \(int64\)"):
        load_backbone(foreign(tmp_path, state), name="resnet18")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_other_precisions_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {key: v.to(dtype) if v.ndim else v.int() for key, v in torchvision.models.resnet18().state_dict().items()}
    weight = load_backbone(foreign(tmp_path, state), name="resnet18").model.conv1.weight
    assert weight.dtype == torch.float32 and torch.equal(weight, state["conv1.weight"].float())


def test_weights_beyond_float32_are_not_finite(tmp_path: Path) -> None:
    state = torchvision.models.resnet18().double().state_dict()
    state["conv1.weight"][0, 0, 0, 0] = 1e300
    with pytest.raises(UserError, match=r"not finite in conv1\.weight"):
        load_backbone(foreign(tmp_path, state), name="resnet18")


@pytest.mark.parametrize("ending", ["", ".0"])
@pytest.mark.parametrize(("name", "heads"), [("resnet18", ("fc", "classifier")), ("convnext_atto", ("head.fc",))])
def test_a_classifier_is_no_reason(tmp_path: Path, name: str, heads: tuple[str, ...], ending: str) -> None:
    state = timm.create_model(name, num_classes=0).state_dict()
    gone = next(key for key in state if key.endswith("norm.weight" if name != "resnet18" else "bn2.weight"))
    state[gone + "s"] = state.pop(gone)
    state |= {f"{head}{ending}.{each}": torch.zeros(1) for head in heads for each in ("weight", "bias")}
    with pytest.raises(UserError) as caught:
        load_backbone(foreign(tmp_path, state), name=name)
    assert str(caught.value).endswith(f"missing: {gone}; unexpected: {gone}s")


def test_a_classifier_alone_does_not_fit() -> None:
    state = timm.create_model("resnet18").state_dict()
    with pytest.raises(UserError, match=r"unexpected: fc\.weight, fc\.bias"):
        weights_module.fill(create_backbone("resnet18", seed=0), state, source="file")


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_a_pickle_runs_no_code(tmp_path: Path) -> None:
    file = tmp_path / "attack.pth"
    torch.save({"state_dict": Attack(tmp_path / "harm")}, file)
    with pytest.raises(UserError, match="more than tensors"):
        load_backbone(file, name="resnet18")
    assert not (tmp_path / "harm").exists()


@pytest.mark.filterwarnings("error")
def test_another_pickle_protocol_is_refused_without_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "five.pth"
    torch.save({"state_dict": Attack(tmp_path / "harm")}, file, pickle_protocol=5)
    with pytest.raises(UserError, match="more than tensors"):
        load_backbone(file, name="resnet18")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.safetensors", create_backbone("resnet18", seed=1))
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-100])
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.pth").touch()
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "weights.onnx").touch()
    cases = {
        "cut.safetensors": "not a whole safetensors file",
        "text.safetensors": "not a whole safetensors file",
        "text.pth": "damaged",
        "empty.pth": "damaged",
        "list.pth": "no state dict",
        "weights.onnx": r"allowed: \.safetensors",
        "none.pth": "no such file",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message):
            load_backbone(tmp_path / name, name="resnet18")


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("size", "big", "damaged metadata"),
        ("size", "0", "damaged metadata: size 0"),
        ("size", None, "damaged metadata"),
        ("mean", "[1]", "damaged metadata"),
        ("std", "{}", "damaged metadata"),
        ("size", "-3", "damaged metadata: size -3 is no whole number of pixels, at least 1"),
        ("size", "64.5", "damaged metadata: size 64.5 is no whole number"),
        ("size", "6_4", "damaged metadata: size 6_4 is no whole number"),
        ("mean", "[NaN, 0, 0]", r"damaged metadata: mean \[NaN, 0, 0\] is not three finite numbers"),
        ("mean", '["a", 0, 0]', "damaged metadata: mean"),
        ("mean", f"[1{400 * '0'}, 0, 0]", "damaged metadata: mean"),
        ("std", "[1, Infinity, 1]", "damaged metadata: std .* is not three finite numbers above 0"),
        ("std", "[1, 0, 1]", r"damaged metadata: std \[1, 0, 1\] is not three finite numbers above 0"),
        ("std", "[1, -1, 1]", "damaged metadata: std"),
        ("stem", "huge", "unknown stem 'huge'"),
        ("name", "resnet5", r"weights\.safetensors: .*Did you mean 'resnet50'"),
        ("name", "", r"weights\.safetensors: backbone: unknown name ''"),
        ("name", "resnet34", "does not fit 'resnet34'"),
        ("norm", "group", "does not fit 'resnet18'"),
    ],
)
def test_damaged_metadata(tmp_path: Path, entry: str, value: str | None, message: str) -> None:
    file = save(tmp_path / "weights.safetensors", create_backbone("resnet18", seed=1))
    with safetensors.safe_open(file, framework="pt") as opened:
        metadata = {key: text for key, text in opened.metadata().items() if key != entry}
    if value is not None:
        metadata[entry] = value
    safetensors.torch.save_file(safetensors.torch.load_file(file), file, metadata)
    with pytest.raises(UserError, match=message):
        load_backbone(file)


def test_another_name_than_the_files_own(tmp_path: Path) -> None:
    file = save(tmp_path / "weights.safetensors", create_backbone("resnet18", seed=1))
    with pytest.raises(UserError, match="holds 'resnet18', not 'resnet50'"):
        load_backbone(file, name="resnet50")
