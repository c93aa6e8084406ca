"""The three-decoder scheme: its losses, class weights, pseudo-labels, averages and predictions."""

import math

import pytest
import torch
from torch.nn import functional as F

from fastseg import diffusion, losses, models
from fastseg.errors import UsageError
from fastseg.models.parts.generic_ssl import ClassWeights
from fastseg.models.parts.joint import Joint

pytestmark = pytest.mark.usefixtures("seeded", "poisoned_memory", "one_thread")

C, K = 2, 3


def system(name="diffusion-unet", **options):
    return models.build(name, in_channels=C, classes=K, width=4, **options)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(batch=2, sizes=(32, 16)):
    return torch.randn(batch, C, *sizes, generator=generator(1))


def labels(batch=2, sizes=(32, 16)):
    return torch.randint(0, K, (batch, *sizes), generator=generator(2), dtype=torch.uint8)


def batch(**more):
    return {"image": images(), "label": labels(), "progress": 0.5} | more


# --- losses


def plain_dice(p, y, c, smooth):
    tp = sum(float(p[b, c, i]) for b, i in voxels(y) if int(y[b, i]) == c)
    fp = sum(float(p[b, c, i]) for b, i in voxels(y) if int(y[b, i]) != c)
    fn = sum(1 - float(p[b, c, i]) for b, i in voxels(y) if int(y[b, i]) == c)
    return (2 * tp + smooth) / (2 * tp + fp + fn + smooth + 1e-8)


def voxels(y):
    return [(b, i) for b in range(y.shape[0]) for i in range(y.shape[1])]


@pytest.mark.parametrize("weights", [None, (0.5, 2.0, 3.0)])
def test_batch_dice_ce_is_its_formula(weights):
    logits, y = torch.randn(2, K, 7), torch.randint(0, K, (2, 7))
    p, w = logits.double().softmax(1), weights or (1.0,) * K
    terms = [(w[int(y[b, i])], math.log(float(p[b, int(y[b, i]), i]))) for b, i in voxels(y)]
    ce = -sum(weight * log for weight, log in terms) / sum(weight for weight, _ in terms)
    dice = sum(w[c] * plain_dice(p, y, c, 1.0) for c in range(1, K)) / (K - 1)
    given = None if weights is None else torch.tensor(weights)
    loss, parts = losses.batch_dice_ce(logits, y, given)
    assert loss.item() == pytest.approx(ce - dice, rel=1e-5)
    assert (parts["ce"].item(), parts["dice"].item()) == pytest.approx((ce, dice), rel=1e-5)
    assert losses.batch_dice_ce(logits.bfloat16(), y, given)[0].dtype == torch.float32


def test_hard_dice_counts_whole_batches_and_gives_an_absent_class_one_half():
    y = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]])
    logits = F.one_hot(torch.tensor([[0, 1, 1, 1], [0, 0, 0, 1]]), 3).movedim(-1, 1).half()
    assert losses.hard_batch_dice(logits, y).tolist() == pytest.approx([8 / 10, 4 / 6, 0.5])


def test_losses_name_what_does_not_fit():
    logits = torch.randn(2, K, 4, 4)
    with pytest.raises(ValueError, match=r"\(2, 4, 5\)"):
        losses.batch_dice_ce(logits, torch.zeros(2, 4, 5))
    with pytest.raises(ValueError, match="weights"):
        losses.batch_dice_ce(logits, torch.zeros(2, 4, 4), torch.ones(K + 1))


def test_ramp():
    values = [10 * losses.ramp(epoch / 300) for epoch in (0, 100, 150, 200, 300)]
    assert values == pytest.approx([0.067, 1.08, 2.87, 5.74, 10], abs=5e-3)


# --- class weights


def plain_weights(history, memory):
    """The weights after a history of Dice values, class by class."""
    classes, keep = len(history[0]), (memory - 1) / memory
    before, learnt, unlearnt, lack = [1e-8] * classes, [0] * classes, [0] * classes, [1] * classes
    for dice in history:
        weights = []
        for c, d in enumerate(dice):
            d, b = min(max(d, 1e-6), 1), min(max(before[c], 1e-6), 1)
            change = (d - b) * math.log(d / b)
            learnt[c] = keep * learnt[c] + (1 - keep) * (change if d > b else 0)
            unlearnt[c] = keep * unlearnt[c] + (1 - keep) * (0 if d > b else change)
            lack[c] = keep * lack[c] + (1 - keep) * (1 - d)
            difficulty = ((unlearnt[c] + 1e-8) / (learnt[c] + 1e-8)) ** 0.2
            weights.append(min(max(classes * difficulty * lack[c], 0.1), 10))
            before[c] = d
    return weights


@pytest.mark.parametrize("memory", [2, 50])
def test_class_weights_are_their_formula(memory):
    history = torch.rand(40, 4, generator=generator()).tolist()
    history[3][1], history[4][1], history[5][2], history[6][3] = 0.0, 0.0, 1.0, 0.5
    weights = ClassWeights(4, memory)
    for step, dice in enumerate(history, 1):
        found = weights(torch.tensor(dice))
        assert found.tolist() == pytest.approx(plain_weights(history[:step], memory), rel=1e-4)


def test_class_weights_stay_within_their_bounds():
    weights = ClassWeights(2, 50)
    assert weights(torch.tensor([1.0, 0.9]))[0].item() == pytest.approx(0.1)  # learnt at once
    for dice in (1e-7, 0.0, 0.9, 0.0):
        found = weights(torch.tensor([dice, 0.5]))
        assert found.isfinite().all()
        assert found.min() >= 0.1 - 1e-6
        assert found.max() <= 10
    falling = ClassWeights(2, 2)
    for dice in (0.9, *[0.9 - 0.01 * i for i in range(60)]):
        found = falling(torch.tensor([dice, 0.5]))
    assert found[0].item() == 10


def test_class_weights_resume_from_their_state():
    first, second = ClassWeights(K), ClassWeights(K)
    first(torch.rand(K))
    second.load_state_dict(first.state_dict())
    dice = torch.rand(K)
    assert torch.equal(first(dice), second(dice))


# --- training


def test_supervised_loss_is_its_parts():
    loss, parts = system().training_loss(batch(), generator())
    assert loss.item() == pytest.approx((parts["deno"] + parts["diff"]).item(), rel=1e-6)
    assert {"deno", "diff", "weight_0", "weight_2"} <= set(parts)


def test_ssl_loss_adds_the_ramped_pseudo_label_loss():
    net = system(mode="ssl", sampling_steps=2)
    loss, parts = net.training_loss(batch(unlabelled=images(3)), generator())
    assert parts["mu"].item() == pytest.approx(10 * math.exp(-5 / 4))
    exact = parts["deno"] + parts["diff"] + parts["mu"] * parts["unsup"]
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    with pytest.raises(ValueError, match="labelled_fraction"):
        net.training_loss(batch(), generator())


def test_the_denoiser_sees_the_noised_label_map(monkeypatch):
    net, seen = system(), {}
    answer = torch.zeros(2, K, 32, 16)
    monkeypatch.setattr(net, "denoise", lambda x, t: seen.update(x=x, t=t) or answer)
    net.training_loss(batch(), generator())
    rng = generator()
    t = torch.randint(1000, (2,), generator=rng)
    noise = torch.randn(2, K, 32, 16, generator=rng)
    clean = 2 * F.one_hot(labels().long(), K).movedim(-1, 1).float() - 1
    assert torch.equal(seen["t"], t)
    assert torch.equal(seen["x"][:, :C], images())
    exact = diffusion.add_noise(diffusion.linear_schedule(1000), clean, noise, t)
    torch.testing.assert_close(seen["x"][:, C:], exact)


def test_pseudo_labels_are_smoothed_samples_plus_psi(monkeypatch):
    net = system(mode="ssl")
    clean, logits = 2 * torch.rand(2, K, 32, 16) - 1, torch.randn(2, K, 32, 16)
    monkeypatch.setattr(net, "sample", lambda *args, **kwargs: clean)
    monkeypatch.setattr(net, "segment", lambda image: logits)
    found = net.pseudo_labels(images(), generator())
    gumbel = -torch.empty_like(clean).exponential_(generator=generator()).log()
    line = torch.tensor([math.exp(-0.5), 1, math.exp(-0.5)])
    kernel = torch.outer(line, line) / line.sum() ** 2
    drawn = (clean + gumbel).softmax(1)
    smooth = F.conv2d(drawn, kernel.expand(K, 1, 3, 3), padding=1, groups=K)
    score = smooth + logits.softmax(1)
    best = score.topk(2, 1).values
    sure = best[:, 0] - best[:, 1] > 1e-5
    assert torch.equal(found[sure], score.argmax(1)[sure])
    assert sure.float().mean() > 0.99


def test_pseudo_labels_are_made_in_evaluation_mode():
    net = system(mode="ssl", sampling_steps=2)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    found = net.pseudo_labels(images(), generator())
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())
    assert all(module.training for module in net.modules())
    assert torch.equal(found, net.eval().pseudo_labels(images(), generator()))
    assert not net.training


def test_theta_moves_towards_the_mean_of_the_other_decoders():
    net = system(mode="ssl", theta_decay=0.75)
    torch.nn.init.normal_(net.psi.blocks[0].units[0].norm.weight)
    decoders = {name: getattr(net, name).state_dict() for name in ("xi", "psi", "theta")}
    old = {name: {k: v.clone() for k, v in state.items()} for name, state in decoders.items()}
    net.psi.blocks[0].units[0].norm.running_mean.fill_(5)
    net.after_step()
    moved = [name for name, _ in net.theta.named_parameters()]
    assert not any("shift" in name for name in moved)
    for name, now in net.theta.state_dict().items():
        mean = (old["xi"][name] + old["psi"][name]) / 2 if name in moved else None
        exact = 0.75 * old["theta"][name] + 0.25 * mean if name in moved else old["theta"][name]
        torch.testing.assert_close(now, exact)
    for name in ("xi", "psi"):
        parameters = dict(getattr(net, name).named_parameters())
        assert all(torch.equal(p, old[name][key]) for key, p in parameters.items())


def test_theta_rests_in_supervised_runs():
    net = system()
    old = [p.clone() for p in net.theta.parameters()]
    net.after_step()
    assert all(map(torch.equal, net.theta.parameters(), old))
    assert not any(p.requires_grad for p in net.theta.parameters())


# --- prediction


@pytest.mark.parametrize("options", [{}, {"sampler": "dpm++"}, {"ensemble": 3, "max_batch": 4}])
def test_sampling_works_on_probabilities(monkeypatch, options):
    net = system(decoder="diffusion", sampling_steps=4, **options).eval()
    logits = torch.randn(2, K, 32, 16)
    monkeypatch.setattr(net, "denoise", lambda joint, t: logits[joint._rows])
    clean = net.sample(images(), generator(), members=2)
    torch.testing.assert_close(clean, 2 * logits.softmax(1) - 1)
    torch.testing.assert_close(net.predict(images()), logits.softmax(1))


def test_prediction_by_each_decoder():
    net = system(mode="ssl", sampling_steps=2).eval()
    with torch.no_grad():
        for decoder in ("psi", "theta"):
            other = system(mode="ssl", decoder=decoder).eval()
            other.load_state_dict(net.state_dict())
            found = other.predict(images())
            torch.testing.assert_close(found, net.segment(images(), decoder).softmax(1))
        assert torch.equal(net.predict(images()), net.segment(images(), "theta").softmax(1))
        plain = system().eval()
        assert torch.equal(plain.predict(images()), plain.segment(images(), "psi").softmax(1))
        sampled = system(decoder="diffusion", sampling_steps=2).eval()
        first = sampled.predict(images())
        torch.testing.assert_close(first.sum(1), torch.ones(2, 32, 16))
        assert torch.equal(first, sampled.predict(images(), generator(0)))
        assert not torch.equal(first, sampled.predict(images(), generator(1)))


@pytest.mark.parametrize("axes", [2, 3])
def test_a_joint_input_is_the_concatenation(axes):
    sizes = (6, 5, 4)[:axes]
    conv = (torch.nn.Conv2d, torch.nn.Conv3d)[axes - 2](C + K, 4, 3, padding=1)
    image, rows = torch.randn(2, C, *sizes), torch.tensor([1, 0, 1])
    joint = Joint(image)
    for _ in range(2):
        mask = torch.randn(3, K, *sizes)
        exact = conv(torch.cat([image[rows], mask], 1))
        torch.testing.assert_close(joint.beside(mask, rows).through(conv), exact)


def test_the_image_is_convolved_once_a_sampling(monkeypatch):
    net, counts = system(decoder="diffusion", sampling_steps=5, ensemble=2).eval(), []
    plain = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda x, *rest: counts.append(x.shape[:2]) or plain(x, *rest))
    net.predict(images())
    assert counts.count((2, C)) == 1
    assert counts.count((4, K)) == 5


@pytest.mark.parametrize(
    "options",
    [{"mode": "semi"}, {"decoder": "theta"}, {"mode": "ssl", "decoder": "xi"}, {"ensemble": 0},
     {"axes": 1}, {"width": 0}, {"unknown": 1}],
    ids=str,
)  # fmt: skip
def test_bad_options_are_usage_errors(options):
    with pytest.raises(UsageError, match=next(reversed(options))):
        models.build("diffusion-unet", in_channels=C, classes=K, **{"width": 4} | options)
