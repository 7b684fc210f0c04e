"""Every style of key names: the backbone comes out under timm's names, the evaluated encoder among several."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from scenewise.backbones import create_backbone, load_backbone, load_subject
from scenewise.backbones.foreign import Found, find_backbone, notes_on
from scenewise.backbones.foreign_styles import STYLES
from scenewise.errors import UserError

State = dict[str, Tensor]
CHILDREN = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7, "fc": 9}
LIGHTLY = {"conv1": 0, "bn1": 1, "layer1": 2, "layer2": 3, "layer3": 4, "layer4": 5, "fc": 7}


def _state(name: str, seed: int = 0) -> State:
    """Return the names of an architecture's entries with one number each: what is read is told by it."""
    with torch.device("meta"):
        names = list(timm.create_model(name, num_classes=3).state_dict())
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(1, generator=generator) for key in names}


RESNET, VIT = _state("resnet18"), _state("vit_tiny_patch16_224")
OTHER, OTHER_VIT = _state("resnet18", 1), _state("vit_tiny_patch16_224", 1)  # another encoder of the same file
QUEUE = {"queue": torch.zeros(2), "queue_ptr": torch.zeros(1)}


def _under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def _numbered(state: State, numbers: dict[str, int]) -> State:
    parted = ((key.partition("."), value) for key, value in state.items())
    return {f"{numbers[first]}.{rest}": value for (first, _, rest), value in parted}


def _openmmlab(state: State) -> State:
    renamed = {}
    for key, value in state.items():
        new = re.sub(r"^blocks\.(\d+)\.norm", r"layers.\1.ln", key)
        new = re.sub(r"^blocks\.(\d+)\.mlp\.fc1", r"layers.\1.ffn.layers.0.0", new)
        new = re.sub(r"^blocks\.(\d+)\.mlp\.fc2", r"layers.\1.ffn.layers.1", new)
        new = re.sub(r"^blocks\.", "layers.", new)
        renamed[new.replace("patch_embed.proj", "patch_embed.projection").replace("norm.", "ln1.")] = value
    return renamed


CASES: dict[str, tuple[State, Any, str, str]] = {  # what is expected, the content, words of its notes
    "timm": (RESNET, RESNET, "read as NAME, without its classifier", ""),
    "timm vit": (VIT, {"state_dict": VIT, "epoch": 3}, "read as NAME, without its classifier", ""),
    "deit": (VIT, {"model": VIT}, "read as NAME, without its classifier", ""),
    "data parallel": (RESNET, {"state_dict": _under("module.", RESNET)}, "read as NAME, without its classifier", ""),
    "compiled": (RESNET, _under("_orig_mod.module.", RESNET), "read as NAME, without its classifier", ""),
    "moco v2": (
        RESNET,
        {
            "epoch": 200,
            "arch": "resnet18",
            "state_dict": _under("module.encoder_q.", RESNET)
            | _under("module.encoder_k.", OTHER)
            | _under("module.", QUEUE),
        },
        r"MoCo v1 and v2 \(state_dict, encoder_q\.\*\): 120 used, the query encoder",
        "left out 126 entries: 122 of encoder_k, 2 of encoder_q.fc, 1 of queue, 1 of queue_ptr; for example",
    ),
    "moco v3": (
        VIT,
        {"state_dict": _under("module.momentum_encoder.", OTHER_VIT) | _under("module.base_encoder.", VIT)},
        r"MoCo v3 .*the base encoder",
        "152 of momentum_encoder, 2 of base_encoder.head",
    ),
    "moco v3 resnet": (RESNET, {"state_dict": _under("module.base_encoder.", RESNET)}, "MoCo v3", "2 of base_encoder"),
    "openselfsup": (
        RESNET,
        {
            "meta": {"epoch": 1},
            "state_dict": _under("encoder_q.0.", RESNET)
            | _under("encoder_k.0.", OTHER)
            | _under("backbone.", RESNET)
            | {"encoder_q.1.mlp.0.weight": torch.zeros(1)}
            | QUEUE,
        },
        r"DenseCL.*the backbone \(the query or online encoder\)",
        "of encoder_k",
    ),
    "mmselfsup, extracted": (RESNET, {"state_dict": {k: v for k, v in RESNET.items() if "fc" not in k}}, "read as", ""),
    "mmpretrain vit": (
        VIT,
        {"state_dict": _under("backbone.", _openmmlab(VIT)) | {"neck.weight": torch.zeros(1)}},
        r"\(ViT\) \(state_dict, backbone\.\*\): 150 used",
        "1 of neck",
    ),
    "swav": (
        RESNET,
        {
            "state_dict": _under("module.", {k: v for k, v in RESNET.items() if "fc" not in k})
            | {"module.projection_head.0.weight": torch.zeros(1), "module.prototypes.weight": torch.zeros(1)}
        },
        r"SwAV \(state_dict\)",
        "1 of projection_head, 1 of prototypes",
    ),
    "vissl": (
        RESNET,
        {
            "phase": 99,
            "classy_state_dict": {
                "base_model": {"model": {"trunk": _under("_feature_blocks.", RESNET), "heads": {"0.w": torch.zeros(1)}}}
            },
        },
        r"VISSL \(classy_state_dict, base_model, model, trunk, _feature_blocks\.\*\)",
        "left out 3 entries: 2 of _feature_blocks.fc, 1 of heads; for example",
    ),
    "lightly, children": (
        RESNET,
        {
            "state_dict": _under("backbone.", _numbered(RESNET, CHILDREN))
            | _under("backbone_momentum.", _numbered(OTHER, CHILDREN))
            | {"projection_head.layers.0.weight": torch.zeros(1)}
        },
        r"a Sequential of torchvision's ResNet\) \(state_dict, backbone\.\*\)",
        "122 of backbone_momentum",
    ),
    "lightly, its own resnet": (
        RESNET,
        {
            "state_dict": {
                key.replace("downsample.", "shortcut."): value
                for key, value in _under("backbone.", _numbered(RESNET, LIGHTLY)).items()
            }
        },
        "its own ResNet",
        "2 of backbone.7",
    ),
    "lightly benchmarks": (
        RESNET,
        {
            "state_dict": _under("student_backbone.", OTHER)
            | _under("backbone.", RESNET)
            | {"projection_head.layers.0.weight": torch.zeros(1)}
        },
        "lightly .*the online backbone",
        "122 of student_backbone",
    ),
    "lightly dino": (
        RESNET,
        {"state_dict": _under("student_backbone.", OTHER) | _under("teacher_backbone.", RESNET)},
        "the teacher",
        "122 of student_backbone",
    ),
    "lightly timm vit": (VIT, {"state_dict": _under("backbone.vit.", VIT)}, r"backbone\.vit\.\*", "backbone.vit.head"),
    "lightly-train": (
        VIT,
        {
            "state_dict": _under("student_embedding_model.wrapped_model._model.", OTHER_VIT)
            | _under("teacher_embedding_model.wrapped_model._model.", VIT)
        },
        "lightly-train",
        "152 of student_embedding_model",
    ),
    "solo-learn": (
        RESNET,
        {
            "state_dict": _under("momentum_backbone.", OTHER)
            | _under("backbone.", RESNET)
            | {"projector.0.weight": torch.zeros(1), "classifier.weight": torch.zeros(1)}
        },
        "solo-learn .*the online",
        "1 of projector",
    ),
    "solo-learn, older": (
        RESNET,
        {"state_dict": _under("encoder.", RESNET) | {"projector.0.weight": torch.zeros(1)}},
        r"solo-learn \(state_dict, encoder\.\*\)",
        "1 of projector",
    ),
    "dino": (
        VIT,
        {
            "student": _under("module.backbone.", OTHER_VIT),
            "teacher": _under("backbone.", VIT) | {"head.mlp.0.weight": torch.zeros(1)},
            "epoch": 5,
        },
        r"DINO \(teacher, backbone\.\*\): 150 used, the teacher",
        "1 of head",
    ),
    "dino, student alone": (VIT, {"student": _under("module.backbone.", VIT)}, "the student, as there is no", ""),
    "byol-pytorch": (
        RESNET,
        _under("target_encoder.net.", OTHER) | _under("net.", RESNET) | _under("online_encoder.net.", RESNET),
        "BYOL-pytorch .*the online encoder",
        "122 of target_encoder, 122 of net, 2 of online_encoder",
    ),
    "pytorch-byol": (
        RESNET,
        {
            "target_network_state_dict": _under("encoder.", _numbered(OTHER, CHILDREN)),
            "online_network_state_dict": _under("encoder.", _numbered(RESNET, CHILDREN)),
        },
        "the online network",
        "",
    ),
    "barlow twins": (RESNET, {"model": _under("module.backbone.", RESNET)}, "a model with a backbone", ""),
    "any prefix": (RESNET, {"model": _under("some.thing.", RESNET)}, r"a plain prefix \(model, some\.thing\.\*\)", ""),
    "a Sequential": (RESNET, _numbered(RESNET, CHILDREN), "a Sequential of torchvision's ResNet", ""),
}


def _expected(state: State) -> State:
    return {key: value for key, value in state.items() if not key.startswith(("fc.", "head."))}


def _find(content: Any, state: State) -> Found:
    return find_backbone(content, _expected(state), source="file.pth")


@pytest.mark.parametrize("case", CASES)
def test_the_backbone_comes_out_under_timms_names_and_the_rest_is_told(case: str) -> None:
    state, content, read, left = CASES[case]
    found = _find(content, state)
    assert found.complete
    assert {key: value.item() for key, value in found.state.items()} == {
        key: value.item() for key, value in _expected(state).items()
    }
    notes = notes_on(found, "NAME", ("fc", "head"))
    assert re.search(read, notes[0]) and left in "".join(notes)


def test_every_style_is_tried_here() -> None:
    assert {_find(content, state).style.name for state, content, _, _ in CASES.values()} == {
        style.name for style in STYLES
    } | {"a plain prefix"}


@pytest.mark.parametrize("case", CASES)
def test_one_missing_entry_is_never_a_partial_load(case: str) -> None:
    state, content, _, _ = CASES[case]
    gone = min(key for key in _expected(state) if key.endswith(("norm2.weight", "bn2.weight")))

    def without(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: without(each) for key, each in part.items() if each is not state[gone]}
        return part

    found = _find(without(content), state)
    assert not found.complete and gone not in found.state


def _few(state: State) -> State:
    return dict(list(state.items())[:9])


def _misspelt(state: State) -> State:
    return {
        key.replace("weight", "wieght").replace("bias", "bais").replace("running", "run"): state[key] for key in state
    }


DAMAGED: dict[str, tuple[State, Callable[[State], Any], str]] = {  # a whole encoder beside the evaluated one
    "moco": (
        RESNET,
        lambda s: {"state_dict": _under("module.encoder_q.", s) | _under("module.encoder_k.", OTHER) | QUEUE},
        "MoCo v1 and v2 (state_dict, encoder_q.*)",
    ),
    "moco v3": (
        VIT,
        lambda s: _under("module.base_encoder.", s) | _under("module.momentum_encoder.", OTHER_VIT),
        "MoCo v3 (base_encoder.*)",
    ),
    "openselfsup": (
        RESNET,
        lambda s: _under("encoder_q.0.", s) | _under("encoder_k.0.", OTHER) | _under("backbone.", OTHER) | QUEUE,
        "OpenSelfSup, DenseCL, mmselfsup and mmpretrain (encoder_q.0.*)",
    ),
    "mmselfsup": (
        RESNET,
        lambda s: _under("encoder_k.0.", OTHER) | _under("backbone.", s) | QUEUE,
        "OpenSelfSup, DenseCL, mmselfsup and mmpretrain (backbone.*)",
    ),
    "dino": (
        VIT,
        lambda s: {"student": _under("module.backbone.", OTHER_VIT), "teacher": _under("backbone.", s)},
        "DINO (teacher, backbone.*)",
    ),
    "dino, plain": (VIT, lambda s: {"student": OTHER_VIT, "teacher": s}, "DINO (teacher)"),
    "lightly dino": (
        RESNET,
        lambda s: _under("student_backbone.", OTHER) | _under("teacher_backbone.", s),
        "DINO (teacher_backbone.*)",
    ),
    "byol-pytorch": (
        RESNET,
        lambda s: _under("target_encoder.net.", OTHER) | _under("online_encoder.net.", s),
        "BYOL-pytorch (online_encoder.net.*)",
    ),
    "lightly-train": (
        VIT,
        lambda s: (
            _under("embedding_model.wrapped_model._model.", OTHER_VIT)
            | _under("teacher_embedding_model.wrapped_model._model.", s)
        ),
        "lightly-train (teacher_embedding_model.wrapped_model._model.*)",
    ),
    "solo-learn": (
        RESNET,
        lambda s: _under("momentum_backbone.", OTHER) | _under("backbone.", s) | {"projector.0.weight": torch.zeros(1)},
        "solo-learn (backbone.*)",
    ),
    "lightly": (
        RESNET,
        lambda s: _under("backbone_momentum.", OTHER) | _under("backbone.", s) | {"projection_head.w": torch.zeros(1)},
        "lightly (backbone.*)",
    ),
    "a bare backbone": (
        RESNET,
        lambda s: _under("backbone.", s) | _under("teacher.", OTHER),
        "a model with a backbone (backbone.*)",
    ),
    "a bare backbone, ViT": (
        VIT,
        lambda s: {"state_dict": _under("module.backbone.", s) | _under("module.ema.model.", OTHER_VIT)},
        "a model with a backbone (state_dict, backbone.*)",
    ),
    "a bare backbone beside an encoder": (
        RESNET,
        lambda s: _under("encoder.", OTHER) | _under("backbone.", s),
        "a model with a backbone (backbone.*)",
    ),
    "a bare backbone beside a Sequential": (
        RESNET,
        lambda s: _under("features.", _numbered(OTHER, CHILDREN)) | _under("backbone.", s),
        "a model with a backbone (backbone.*)",
    ),
}


@pytest.mark.parametrize("damage", [_few, _misspelt])
@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_encoder_does_not_give_way_to_another(case: str, damage: Callable[[State], State]) -> None:
    state, write, shown = DAMAGED[case]
    assert _find(write(state), state).complete
    found = _find(write(damage(state)), state)
    assert not found.complete
    if damage is _few or case != "openselfsup":  # of which nothing tells the styles apart
        assert found.shown() == shown


def test_what_a_damaged_encoder_lacks_is_listed(tmp_path: Path) -> None:
    state = torchvision.models.resnet18().state_dict()
    file = tmp_path / "weights.pth"
    torch.save({"state_dict": _under("encoder_q.", _few(state)) | _under("encoder_k.", state)}, file)
    words = r"MoCo v1 and v2 \(state_dict, encoder_q\.\*\)\) does not fit 'resnet18': missing: layer1\.0\.bn1"
    with pytest.raises(UserError, match=words):
        load_backbone(file, name="resnet18")


def test_what_a_damaged_bare_backbone_lacks_is_listed(tmp_path: Path) -> None:
    state = torchvision.models.resnet18().state_dict()
    file = tmp_path / "weights.pth"
    torch.save({"state_dict": _under("backbone.", _few(state)) | _under("teacher.", state)}, file)
    words = r"a model with a backbone \(state_dict, backbone\.\*\)\) does not fit 'resnet18': missing: layer1\.0\.bn1"
    with pytest.raises(UserError, match=words):
        load_backbone(file, name="resnet18")


def test_a_damaged_network_without_a_prefix_does_not_give_way_to_another() -> None:
    half = dict(list(RESNET.items())[:50])
    assert 2 * len(half) < len(RESNET)
    found = _find(half | _under("encoder_k.", OTHER), RESNET)
    assert not found.complete and found.shown() == "timm and torchvision"
    found = _find({"norm.weight": torch.zeros(1)} | _under("any.", OTHER_VIT), VIT)  # one name alone is no network
    assert found.complete and found.prefix == "any."


@pytest.mark.parametrize("beside", ["projector.", "head.", "projection_head."])
def test_a_wrapped_model_within_the_named_encoder_is_read(beside: str) -> None:
    content = _under("ema.model.", OTHER) | _under("backbone.model.", RESNET) | {f"{beside}weight": torch.zeros(1)}
    found = _find(content, RESNET)
    assert found.complete and found.prefix == "backbone.model." and found.style.encoder


def test_an_encoder_without_a_known_name_beside_another_is_refused() -> None:
    with pytest.raises(UserError, match=r"several encoders \(left\.\*, right\.\*\) and nothing says which"):
        _find(_under("left.", RESNET) | _under("right.", OTHER), RESNET)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"state_dict": {"a": 1}}, {"state_dict": []}])
def test_a_file_without_tensors_is_refused(content: Any) -> None:
    with pytest.raises(UserError, match="holds no state dict"):
        _find(content, RESNET)


@pytest.mark.parametrize("prefix", ["", "module.encoder_q.", "backbone.", "any."])
def test_a_deeper_network_does_not_pass_for_a_shallower(tmp_path: Path, prefix: str) -> None:
    """A ResNet-34 holds every entry of a ResNet-18, in the shapes of one."""
    file = tmp_path / "deep.pth"
    torch.save({"state_dict": _under(prefix, torchvision.models.resnet34().state_dict())}, file)
    with pytest.raises(UserError, match=r"does not fit 'resnet18': unexpected: layer1\.2\.conv1\.weight"):
        load_backbone(file, name="resnet18")


@pytest.mark.parametrize(
    ("name", "ending", "write"),
    [
        ("resnet18", ".pth.tar", lambda s: {"arch": "r", "state_dict": _under("module.encoder_q.", s) | QUEUE}),
        (
            "resnet18",
            ".torch",
            lambda s: {"classy_state_dict": {"base_model": {"model": {"trunk": _under("_feature_blocks.", s)}}}},
        ),
        ("resnet18", ".ckpt", lambda s: {"state_dict": _under("backbone.", _numbered(s, CHILDREN)), "lr": 0.5}),
        ("vit_tiny_patch16_224", ".pth", lambda s: {"teacher": _under("backbone.", s), "epoch": 3}),
        ("vit_tiny_patch16_224", ".pth", lambda s: {"state_dict": _under("backbone.", _openmmlab(s))}),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_features_are_those_of_the_original(
    tmp_path: Path, name: str, ending: str, write: Callable[[State], Any], legacy: bool
) -> None:
    original = create_backbone(name, seed=3, size=32).eval()
    file = tmp_path / f"weights{ending}"
    torch.save(write(original.model.state_dict()), file, _use_new_zipfile_serialization=not legacy)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    subject = load_subject(f"{file}?name={name}&size=32")
    with torch.no_grad():
        assert torch.equal(subject.backbone(images), original(images))
    assert subject.notes[0].startswith(f"read as {name} from the entries of")


def test_the_closest_style_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    state = torchvision.models.resnet18().state_dict()
    state.pop("layer2.0.conv1.weight")
    file = tmp_path / "weights.pth"
    torch.save({"state_dict": _under("module.encoder_q.", state) | QUEUE}, file)
    words = r"closest style: MoCo v1 and v2 \(state_dict, encoder_q\.\*\)\) does not fit 'resnet18': missing: layer2\.0"
    with pytest.raises(UserError, match=words):
        load_backbone(file, name="resnet18")


def test_a_sequential_of_torchvisions_children_is_numbered_as_we_think() -> None:
    children = nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])
    found = _find(_under("backbone.", children.state_dict()), RESNET)
    assert found.complete and found.left == ()


def test_the_vit_s_of_moco_v3_has_other_heads_than_timms(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    state = create_backbone("vit_small_patch16_224", seed=0, size=32).model.state_dict()
    torch.save({"state_dict": _under("module.base_encoder.", state)}, file)
    with pytest.raises(UserError, match="6 attention heads, the ViT-S of MoCo v3 has 12"):
        load_backbone(file, name="vit_small_patch16_224", size=32)


def test_lightlys_own_resnet_has_no_relu_behind_its_stem(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    state = create_backbone("resnet18", stem="cifar", seed=0).model.state_dict()
    own = {key.replace("downsample.", "shortcut."): value for key, value in _numbered(state, LIGHTLY).items()}
    torch.save(_under("backbone.", own), file)
    with pytest.raises(UserError, match="ResNetGenerator has none"):
        load_backbone(file, name="resnet18", stem="cifar")


def test_the_architecture_that_a_checkpoint_names_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "moco.pth.tar"
    state = create_backbone("resnet18", seed=3).model.state_dict()
    torch.save({"arch": "resnet18", "state_dict": _under("module.encoder_q.", state) | QUEUE}, file)
    subject = load_subject(str(file))
    assert subject.backbone.name == "resnet18" and subject.notes[0].startswith("read as resnet18 from the entries of")
    assert subject.notes[-1] == "the file names its architecture: arch 'resnet18'"
    named = load_subject(f"{file}?name=resnet18")
    assert not any("arch" in note for note in named.notes)
    with pytest.raises(UserError, match="does not fit 'resnet34'"):
        load_subject(f"{file}?name=resnet34")  # who names one is believed


@pytest.mark.parametrize("arch", ["resnet18x", "resnet18:1", "hf-hub:some/one", "", "a\nb"])
def test_an_architecture_that_is_not_known_is_named_in_the_error(tmp_path: Path, arch: str) -> None:
    file = tmp_path / "moco.pth"
    torch.save({"arch": arch, "state_dict": {"conv1.weight": torch.zeros(1)}}, file)
    with pytest.raises(UserError) as caught:
        load_backbone(file)
    told = str(caught.value)
    assert "does not say which architecture it holds" in told and "?name=resnet50" in told and repr(arch) in told


@pytest.mark.parametrize("arch", [None, 18, ["resnet18"]])
def test_what_is_no_text_is_no_architecture(tmp_path: Path, arch: object) -> None:
    file = tmp_path / "moco.pth"
    torch.save({"arch": arch, "state_dict": {"conv1.weight": torch.zeros(1)}}, file)
    with pytest.raises(UserError, match="does not say which architecture it holds; name it, for example"):
        load_backbone(file)


def test_options_in_a_checkpoint_are_not_read(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"teacher": _under("backbone.", RESNET), "args": argparse.Namespace(lr=1)}, file)
    with pytest.raises(UserError, match="more than tensors, which is not read because it could run code"):
        load_backbone(file, name="resnet18")
