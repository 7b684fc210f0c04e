import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from scenewise.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone, create_backbone, load_backbone, save_backbone
from scenewise.errors import UserError
from scenewise.tools.export import ENDINGS, export

# Runs the snippets one after another, in a process that knows nothing of Scenewise.
RUNNER = """
import sys
import numpy as np, torch
torch.set_num_threads(1)  # as here: sums over other numbers of threads are rounded otherwise
images = torch.from_numpy(np.load(sys.argv[1]))
for snippet, result in zip(sys.argv[2::2], sys.argv[3::2]):
    names = {}
    exec(open(snippet, encoding="utf-8").read(), names)
    normalised = (images - torch.tensor(names["mean"]).view(3, 1, 1)) / torch.tensor(names["std"]).view(3, 1, 1)
    with torch.no_grad():
        np.save(result, names["model"](normalised).numpy())
assert "scenewise" not in sys.modules
"""

CASES = [
    ("resnet18", "imagenet", "batch", "safetensors", ".safetensors"),
    ("resnet18", "cifar", "group", "safetensors", ".safetensors"),
    ("resnet18", "imagenet", "batch", "timm", ".safetensors"),
    ("resnet18", "imagenet", "batch", "timm", ".pth"),
    ("resnet18", "cifar", "batch", "timm", ".safetensors"),
    ("resnet18", "imagenet", "group", "timm", ".pth"),
    ("resnet18", "cifar-pool", "batch", "timm", ".pth"),
    ("resnet18", "cifar-pool", "batch", "torchvision", ".safetensors"),
    ("vit_tiny_patch16_224", "imagenet", "batch", "timm", ".safetensors"),
    ("convnext_atto", "imagenet", "batch", "timm", ".pth"),
    ("resnet18", "imagenet", "batch", "torchvision", ".pth"),
    ("resnet50", "imagenet", "batch", "torchvision", ".safetensors"),
    ("resnet18", "cifar", "group", "torchvision", ".pth"),
]


def trained(name: str, *, stem: str = "imagenet", norm: str = "batch") -> Backbone:
    """Return a backbone whose batch statistics, affine terms and biases all differ from a fresh model's."""
    backbone = create_backbone(name, stem=stem, norm=norm, seed=3, size=64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean, so that two batches fill the statistics
    for _ in range(2):
        backbone(torch.randn(4, 3, 64, 64, generator=generator))
    return backbone.eval()


def save(folder: Path, backbone: Backbone) -> str:
    file = folder / "backbone.safetensors"
    save_backbone(file, backbone, size=64, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), method="mls")
    return str(folder)


def test_the_snippets_give_the_same_features_without_scenewise(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((3, 3, 64, 64), dtype=np.float32)
    np.save(tmp_path / "images.npy", images)
    mean, std = torch.tensor((0.4, 0.5, 0.6)).view(3, 1, 1), torch.tensor((0.2, 0.3, 0.25)).view(3, 1, 1)
    arguments, expected = [], []
    for number, (name, stem, norm, format_, ending) in enumerate(CASES):
        backbone = trained(name, stem=stem, norm=norm)
        folder = tmp_path / f"run {number}"
        snippet = export(save(folder, backbone), format=format_, out=folder / f"it's {number}{ending}")
        (folder / "snippet.py").write_text(snippet, encoding="utf-8")
        arguments += [str(folder / "snippet.py"), str(folder / "result.npy")]
        with torch.no_grad():
            expected.append(backbone((torch.from_numpy(images) - mean) / std).numpy())
    command = [sys.executable, "-c", RUNNER, str(tmp_path / "images.npy"), *arguments]
    subprocess.run(command, check=True, cwd=tmp_path)
    for case, result, features in zip(CASES, arguments[1::2], expected, strict=True):
        assert np.abs(features).max() > 0.01, case
        np.testing.assert_allclose(np.load(result), features, rtol=1e-5, atol=1e-5, err_msg=str(case))


def test_an_exported_file_is_a_subject_again(tmp_path: Path) -> None:
    backbone = trained("resnet18")
    run = save(tmp_path, backbone)
    first = tmp_path / "first.safetensors"
    export(run, format="safetensors", out=first)
    loaded = load_backbone(first)
    assert loaded.weights.mean == (0.4, 0.5, 0.6)
    assert loaded.weights.method == "mls"
    assert first.read_bytes() == (tmp_path / "backbone.safetensors").read_bytes()


def test_random_weights_can_be_exported(tmp_path: Path) -> None:
    snippet = export("random:resnet18", format="torchvision", out=tmp_path / "new" / "random.pth")
    assert f"mean, std = {IMAGENET_MEAN}, {IMAGENET_STD}" in snippet
    state = torch.load(tmp_path / "new" / "random.pth", weights_only=True)
    assert torch.equal(state["conv1.weight"], create_backbone("resnet18", seed=0).model.conv1.weight)


@pytest.mark.parametrize("format_", list(ENDINGS))
def test_the_same_subject_is_the_same_file(tmp_path: Path, format_: str) -> None:
    ending = ENDINGS[format_][0]
    files = [tmp_path / folder / f"weights{ending}" for folder in ("first", "second")]
    for file in files:
        export("random:resnet18", format=format_, out=file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_an_existing_file_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    out = tmp_path / "out.pth"
    out.write_text("precious")
    with pytest.raises(UserError, match="exists"):
        export("random:resnet18", format="timm", out=out)
    assert out.read_text() == "precious"
    export("random:resnet18", format="timm", out=out, overwrite=True)
    assert torch.load(out, weights_only=True)


@pytest.mark.parametrize(
    ("subject", "format_", "name", "message"),
    [
        ("random:resnet18", "torchvison", "out.pth", "format: .*Did you mean 'torchvision'"),
        ("random:resnet18", "safetensors", "out.pth", "must end in .safetensors"),
        ("random:resnet18", "timm", "out", "must end in .safetensors or .pth"),
        ("random:resnet18", "timm", "folder.pth", "is a folder"),
        ("random:convnext_atto", "torchvision", "out.pth", "torchvision has no 'convnext_atto'"),
        ("random:resnet18d", "torchvision", "out.pth", "torchvision has no 'resnet18d'"),
        ("random:resnet5", "timm", "out.pth", "Did you mean 'resnet50'"),
        ("nothing", "timm", "out.pth", "no file or folder"),
        ("random:resnet18", "timm", "file/out.pth", "cannot be written"),
    ],
)
def test_what_cannot_be_exported(tmp_path: Path, subject: str, format_: str, name: str, message: str) -> None:
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message):
        export(subject, format=format_, out=tmp_path / name)
    assert not (tmp_path / "out.pth").exists()
