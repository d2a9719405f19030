import pytest
import torch
from test_loop import TINY

from rwkvclip_train.models import build_trainee, text_decay_to_bfloat16
from rwkvclip_train.optim.adamw import make_optimizer
from rwkvclip_train.optim.groups import parameter_groups
from rwkvclip_train.recipe import ModelRecipe, Recipe

CPU = torch.device("cpu")


def built(family):
    return build_trainee(ModelRecipe(family=family, config=TINY[family]), seed=0, device=CPU).module.train()


def decayed(model, decay):
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, decay, 0.2)
    held = [names[id(p)] for group in groups for p in group["params"]]
    assert sorted(held) == sorted(names.values())
    assert all(group["weight_decay"] in (0.2, 0) for group in groups)
    return {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}


def leaves(names):
    return {name.rpartition(".")[2] for name in names}


def test_of_rwkv_clip_only_linear_and_low_rank_maps_decay():
    model = built("rwkv-clip")
    names = decayed(model, "matrices")
    linears = {f"{path}.weight" for path, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    low_rank = {n for n, _ in model.named_parameters() if n.endswith(("_w1", "_w2"))}
    assert names == linears | low_rank | {"image_model.patch_embed.projection.weight"}
    assert leaves(dict(model.named_parameters())) - leaves(names) >= {"time_faaaa", "pos_embed", "time_decay"}
    assert "text_model.emb.weight" not in names


def test_of_clip_only_linear_maps_decay_those_that_are_parameters_too():
    names = decayed(built("open_clip"), "matrices")
    assert leaves(names) == {"weight", "in_proj_weight", "proj", "text_projection"}
    assert {"visual.conv1.weight", "transformer.resblocks.0.mlp.c_fc.weight"} <= names
    assert not any("ln_" in name or "embedding" in name for name in names)


@pytest.mark.parametrize("family", TINY)
def test_in_the_official_flavour_everything_decays(family):
    model = built(family)
    assert decayed(model, "all") == set(dict(model.named_parameters()))


def test_parameters_that_are_not_trained_are_in_no_group():
    model = built("rwkv-clip")
    model.text_model.requires_grad_(False)
    held = {id(p) for g in parameter_groups(model, "matrices", 0.2) for p in g["params"]}
    assert held == {id(p) for n, p in model.named_parameters() if not n.startswith("text_model.")}


def official(**quirks):
    return Recipe.model_validate(
        {
            "name": "tiny",
            "model": {"family": "rwkv-clip", "config": TINY["rwkv-clip"]},
            "data": [{"dataset": "digits", "texts": "kinds"}],
            "steps": 100,
            "batch_size": 8,
            "lr": 0.001,
            "flavour": "official",
            "quirks": quirks,
        }
    )


@pytest.mark.parametrize("bfloat16", [True, False])
def test_bfloat16_text_decay_stays_byte_for_byte_where_it_begins_at_one_or_more(bfloat16):
    model = built("rwkv-clip")
    if bfloat16:
        text_decay_to_bfloat16(model)
    recurrent = {n: p for n, p in model.named_parameters() if n.endswith(("time_decay", "time_faaaa"))}
    low = {n for n, p in recurrent.items() if p.dtype == torch.bfloat16}
    assert low == ({n for n in recurrent if n.startswith("text_model.")} if bfloat16 else set())
    before = {n: p.detach().clone() for n, p in recurrent.items()}
    optimizer = make_optimizer(model, official())
    pixels, tokens = torch.randn(4, 3, 16, 16), torch.randint(0, 49408, (4, 16))
    for _ in range(5):
        optimizer.zero_grad()
        image, text, _ = model(pixels, tokens)
        (image.square().sum() + text.square().sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    decay = [n for n in recurrent if n.startswith("text_model.") and n.endswith("time_decay")]
    large = {n: before[n].abs() >= 1 for n in decay}
    assert sum(int(mask.sum()) for mask in large.values()) > 20
    for name in decay:
        unchanged = (recurrent[name].detach() == before[name])[large[name]]
        assert bool(unchanged.all()) == bfloat16
    # The image tower's decay is float32 in both and moves.
    assert not any(torch.equal(before[n], p) for n, p in recurrent.items() if n.startswith("image_model"))


def test_bfloat16_text_decay_changes_no_embedding_of_an_untrained_model():
    """The official initial values of the text tower are bfloat16 numbers."""
    model = built("rwkv-clip").eval()
    tokens = torch.randint(0, 49408, (4, 16))
    with torch.no_grad():
        before = model.encode_text(tokens)
        text_decay_to_bfloat16(model)
        assert torch.equal(model.encode_text(tokens), before)
