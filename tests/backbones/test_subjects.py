import hashlib
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
import torchvision

from scenewise.backbones import IMAGENET_MEAN, IMAGENET_STD, create_backbone, load_subject, save_backbone
from scenewise.errors import UserError

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path


def place_in_hub(caches: Path, repository: str, state: dict[str, torch.Tensor]) -> None:
    folder = caches / "hub" / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    safetensors.torch.save_file(state, folder / "snapshots" / "abc" / "model.safetensors")


def test_random(tmp_path: Path) -> None:
    subject = load_subject("random:resnet18", seed=4)
    expected = create_backbone("resnet18", seed=4).eval()
    with torch.no_grad():
        assert torch.equal(subject.backbone(IMAGES), expected(IMAGES))
    assert (subject.name, subject.size, subject.mean, subject.std) == (
        "random:resnet18",
        224,
        IMAGENET_MEAN,
        IMAGENET_STD,
    )
    assert subject.notes == ("random weights of seed 4",)
    assert load_subject("random:resnet18", size=96).size == 96


def test_run_folder_and_file(tmp_path: Path) -> None:
    backbone = create_backbone("resnet18", stem="cifar", seed=1)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    file = tmp_path / "backbone.safetensors"
    save_backbone(file, backbone, size=64, mean=mean, std=std, method="mls")
    for text in (str(tmp_path), str(file)):
        subject = load_subject(text)
        assert (subject.size, subject.mean, subject.std, subject.backbone.stem) == (64, mean, std, "cifar")
        assert not subject.backbone.training


def test_foreign_file_with_its_architecture(tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    torch.save(torchvision.models.resnet18().state_dict(), file)
    subject = load_subject(f"{file}?name=resnet18&size=96")
    assert (subject.size, subject.backbone.name) == (96, "resnet18")
    assert subject.notes == ("read as resnet18, without its classifier",)


def test_timm_weights_on_disk(caches: Path) -> None:
    model = timm.create_model("resnet18")
    place_in_hub(caches, "timm/resnet18.a1_in1k", model.state_dict())
    subject = load_subject("timm:resnet18.a1_in1k", size=64)
    model.reset_classifier(0)
    with torch.no_grad():
        assert torch.equal(subject.backbone(IMAGES), model.eval()(IMAGES))
    assert subject.backbone.weights.method == "timm resnet18.a1_in1k"
    assert load_subject("timm:resnet18").backbone.weights.method == "timm resnet18.a1_in1k"


def test_timm_vision_transformer_at_another_size(caches: Path) -> None:
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    model = timm.create_model(name)
    place_in_hub(caches, f"timm/{name}", model.state_dict())
    subject = load_subject(f"timm:{name}", size=64)
    assert subject.mean == (0.5, 0.5, 0.5)
    expected = timm.create_model(name, num_classes=0, img_size=64).eval()
    state = timm.models.vision_transformer.checkpoint_filter_fn(model.state_dict(), expected)
    expected.load_state_dict({key: value for key, value in state.items() if not key.startswith("head.")})
    with torch.no_grad():
        torch.testing.assert_close(subject.backbone(IMAGES), expected(IMAGES), rtol=1e-5, atol=1e-5)


def test_timm_weights_that_fit_in_part_are_refused(caches: Path) -> None:
    state = timm.create_model("resnet18").state_dict()
    del state["layer1.0.conv1.weight"]
    place_in_hub(caches, "timm/resnet18.a1_in1k", state)
    with pytest.raises(UserError, match=r"layer1\.0\.conv1\.weight"):
        load_subject("timm:resnet18.a1_in1k")


@pytest.mark.parametrize(("subject", "tag"), [("resnet18", "DEFAULT"), ("resnet18.IMAGENET1K_V1", "IMAGENET1K_V1")])
def test_torchvision_weights_on_disk(caches: Path, monkeypatch: pytest.MonkeyPatch, subject: str, tag: str) -> None:
    model = torchvision.models.resnet18()
    state = model.state_dict()
    torch.save(state, caches / "made.pth")
    digest = hashlib.sha256((caches / "made.pth").read_bytes()).hexdigest()[:8]
    weights = torchvision.models.ResNet18_Weights[tag]
    renamed = weights.value.__class__(f"scheme://host/resnet18-{digest}.pth", weights.transforms, weights.meta)
    monkeypatch.setattr(weights, "_value_", renamed)
    file = caches / "torch" / "hub" / "checkpoints" / f"resnet18-{digest}.pth"
    (caches / "made.pth").rename(file)
    loaded = load_subject(f"torchvision:{subject}")
    model.fc = torch.nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(loaded.backbone(IMAGES), model.eval()(IMAGES), rtol=1e-5, atol=1e-5)
    assert loaded.notes == ("published weights ResNet18_Weights.IMAGENET1K_V1",)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="is damaged"):
        load_subject(f"torchvision:{subject}")


@pytest.mark.usefixtures("caches")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("timm:resnet18", r"not on this disk.*FILE\.safetensors\?name=resnet18"),
        ("timm:resnet5", "Did you mean 'resnet50'"),
        ("timm:resnet18_gn", "backbone: unknown name"),
        ("torchvision:resnet18", r"Place resnet18-f37072fd\.pth in"),
        ("torchvision:vit_b_16", "subject torchvision: unknown name"),
        ("torchvision:resnet18.V9", "subject torchvision:resnet18: unknown name 'V9'"),
        ("random:resnet5", "Did you mean 'resnet50'"),
        ("rndom:resnet18", "Did you mean 'random:'"),
        ("no/such/run", "is no file or folder here. Allowed: a run folder"),
        ("no/such:run", "is no file or folder here"),
        ("", "subject: no name given. Allowed: a run folder"),
    ],
)
def test_what_cannot_be_found(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_subject(text)


def test_options_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    torch.save(torchvision.models.resnet18().state_dict(), file)
    for query, message in (
        ("nme=resnet18", "Did you mean 'name'"),
        ("name=resnet18&size=big", "size='big'"),
        ("name=resnet18&size=", "size=''"),
        ("name=resnet18&size=0", "size='0' is too small; at least 16 px"),
        ("name=resnet18&size=15", "size='15' is too small"),
    ):
        with pytest.raises(UserError, match=message):
            load_subject(f"{file}?{query}")


def test_too_small_a_size() -> None:
    assert load_subject("random:resnet18", size=16).size == 16
    for size in (15, 0, -64):
        with pytest.raises(UserError, match=f"size: {size} px is too small; at least 16 px"):
            load_subject("random:resnet18", size=size)


def test_size_no_multiple_of_the_patch() -> None:
    with pytest.raises(UserError, match="nearest valid: 96 and 112"):
        load_subject("random:vit_tiny_patch16_224", size=100)


def test_vision_transformer_of_a_run_at_another_size(tmp_path: Path) -> None:
    backbone = create_backbone("vit_tiny_patch16_224", seed=1, size=96).eval()
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    save_backbone(first, backbone, size=96, mean=IMAGENET_MEAN, std=IMAGENET_STD, method="mls")
    subject = load_subject(str(first), size=64)
    assert subject.notes == ("made for images of 96 px, used at 64 px",)
    assert subject.backbone.model.pos_embed.shape[1] == 1 + 4 * 4
    save_backbone(second, subject.backbone, size=64, mean=IMAGENET_MEAN, std=IMAGENET_STD, method="mls")
    with torch.no_grad():  # resampled once is what resampling in every forward gives
        torch.testing.assert_close(subject.backbone(IMAGES), backbone(IMAGES), rtol=1e-5, atol=1e-5)
        assert torch.equal(load_subject(str(second)).backbone(IMAGES), subject.backbone(IMAGES))
