"""What each of several processes computes of the contrastive loss, for test_losses.py."""

import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from rwkvclip_train.objectives.contrastive import global_contrastive_loss

SCALE = 20.0


def leaves(image, text, scale):
    return [x.clone().requires_grad_() for x in (image, text, torch.tensor(scale, dtype=image.dtype))]


def embeddings(num, dim, dtype=torch.float64):
    generator = torch.Generator().manual_seed(num)
    image, noise = (torch.randn(num, dim, generator=generator, dtype=dtype) for _ in range(2))
    return 3 * image, image + noise


def over_ranks(num_pairs, dim):
    """Return name → answers of each rank: loss, gradients of its embeddings, logit scale's mean over ranks.

    `four`: of four processes; `pairs`: of the same, two and two a batch; `two`: of two; `official`: of these
    with the towers' gradients halved; `open_clip`: its loss gathered without gradient.
    """
    with mp.Manager() as manager:
        answers = manager.dict()
        mp.spawn(_rank, ((_free_port(), _free_port()), embeddings(num_pairs, dim), answers), nprocs=4)
        sizes = {"four": 4, "pairs": 4, "two": 2, "official": 2, "open_clip": 2}
        return {name: [answers[name, rank] for rank in range(size)] for name, size in sizes.items()}


def _free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _rank(rank, ports, whole, answers):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ports[0])}
    dist.init_process_group("gloo", rank=rank, world_size=4)
    answers["four", rank] = _answer(global_contrastive_loss, whole, rank, 4, chunk_rows=3)
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    group = groups[rank // 2]
    answers["pairs", rank] = _answer(global_contrastive_loss, whole, rank % 2, 2, group=group)
    dist.destroy_process_group()
    if rank > 1:
        return
    from open_clip.loss import ClipLoss

    os.environ["MASTER_PORT"] = str(ports[1])
    dist.init_process_group("gloo", rank=rank, world_size=2)
    answers["two", rank] = _answer(global_contrastive_loss, whole, rank, 2)
    answers["official", rank] = _answer(global_contrastive_loss, whole, rank, 2, tower_gradient_scale=0.5)
    theirs = ClipLoss(rank=rank, world_size=2)

    def loss(image, text, scale):
        return theirs(F.normalize(image, dim=-1), F.normalize(text, dim=-1), scale)

    answers["open_clip", rank] = _answer(loss, whole, rank, 2)
    dist.destroy_process_group()


def _answer(loss, whole, rank, num_ranks, *, group=None, **given):
    inputs = leaves(*[x.chunk(num_ranks)[rank] for x in whole], SCALE)
    value = loss(*inputs, group=group, **given) if group or given else loss(*inputs)
    image, text, scale = torch.autograd.grad(value, inputs)
    dist.all_reduce(scale, group=group)
    return value.item(), image, text, scale / num_ranks
