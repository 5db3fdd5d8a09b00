"""Otter computes what the original code computes: recorded cases of tiny random weights, in every way to run them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_mllm_aug.errors import CheckpointError, UsageError
from hf_mllm_aug.mllms.otter import OtterConfig, OtterForConditionalGeneration
from tests.golden_otter import (
    CHECKPOINT,
    EXPECTED,
    GOLDEN,
    IN_CODE,
    Tensors,
    assert_near,
    batch,
    generate,
    load,
    logits,
)

CASES = ("uniform", "ragged")
IMAGE = IN_CODE["image_token_id"]


@pytest.fixture(scope="module")
def inputs() -> Tensors:
    return dict(load_file(GOLDEN / "inputs.safetensors"))


@pytest.fixture(scope="module")
def expected() -> Tensors:
    return dict(load_file(GOLDEN / "expected.safetensors"))


@pytest.fixture(scope="module")
def model() -> Any:
    return load(CHECKPOINT).eval()


def single(inputs: Tensors, case: str, row: int) -> Tensors:
    """One row without its padding."""
    real = inputs[f"{case}.attention_mask"][row].bool()
    ids = inputs[f"{case}.input_ids"][row][real][None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": inputs["pixel_values"][row][None]}


def test_the_pictures_features_are_the_originals(model: Any, inputs: Tensors, expected: Tensors) -> None:
    with torch.inference_mode():
        features = model.get_image_features(inputs["pixel_values"])
    assert_near(features.last_hidden_state, expected["vision_features"], "vision_features")
    assert_near(features.pooler_output, expected["image_features"], "image_features")


def test_four_axes_are_one_picture_of_one_frame_a_row(model: Any, inputs: Tensors) -> None:
    given = batch(inputs, "uniform")
    four = {**given, "pixel_values": given["pixel_values"][:, 0, 0]}
    assert torch.equal(logits(model, four), logits(model, given))


@pytest.mark.parametrize("case", CASES)
def test_the_logits_are_the_originals(case: str, model: Any, inputs: Tensors, expected: Tensors) -> None:
    out = logits(model, batch(inputs, case))
    real = inputs[f"{case}.attention_mask"][0].bool()
    assert_near(out[:, -1], expected[f"{case}.logits_last"], "logits")
    assert_near(out[0][real], expected[f"{case}.logits_row0"], "logits")


@pytest.mark.parametrize("row", range(3))
@pytest.mark.parametrize("case", CASES)
def test_a_single_row_gives_the_originals_logits(
    case: str, row: int, model: Any, inputs: Tensors, expected: Tensors
) -> None:
    assert_near(logits(model, single(inputs, case, row))[0, -1], expected[f"{case}.logits_last"][row], "logits")


@pytest.mark.parametrize(
    "cache", [{}, {"use_cache": False}, {"cache_implementation": "static"}], ids=["dynamic", "none", "static"]
)
@pytest.mark.parametrize("case", CASES)
class TestGreedyDecoding:
    def test_gives_the_originals_ids(self, case: str, cache: dict[str, Any], model: Any, inputs: Tensors) -> None:
        assert generate(model, batch(inputs, case), **cache) == EXPECTED["cases"][case]["greedy_ids"]

    def test_without_the_rule_of_three(self, case: str, cache: dict[str, Any], model: Any, inputs: Tensors) -> None:
        ids = generate(model, batch(inputs, case), no_repeat_ngram_size=0, **cache)
        assert ids == EXPECTED["cases"][case]["greedy_ids_without_ngram_rule"]

    def test_stops_at_the_end_token(self, case: str, cache: dict[str, Any], model: Any, inputs: Tensors) -> None:
        wanted = EXPECTED["cases"][case]["with_eos"]
        end, pad = wanted["eos_token_id"], IN_CODE["pad_token_id"]
        rows = generate(model, batch(inputs, case), eos_token_id=end, **cache)
        longest = max(map(len, wanted["greedy_ids"]))
        assert rows == [ids + [pad] * (longest - len(ids)) for ids in wanted["greedy_ids"]]

    def test_row_by_row(self, case: str, cache: dict[str, Any], model: Any, inputs: Tensors) -> None:
        rows = [generate(model, single(inputs, case, row), **cache)[0] for row in range(3)]
        assert rows == EXPECTED["cases"][case]["greedy_ids"]


@pytest.mark.parametrize("case", CASES)
def test_beams_find_the_same_with_and_without_a_cache(case: str, model: Any, inputs: Tensors) -> None:
    found = [generate(model, batch(inputs, case), num_beams=3, use_cache=cached) for cached in (True, False)]
    assert found[0] == found[1]


def test_steps_by_hand_on_a_cache_and_on_a_copy_of_it(model: Any, inputs: Tensors) -> None:
    given = batch(inputs, "ragged")
    ids, mask = given["input_ids"], given["attention_mask"]
    follow = torch.tensor(EXPECTED["cases"]["ragged"]["greedy_ids"])[:, :3]
    whole_mask = torch.cat((mask, torch.ones_like(follow)), dim=1)
    whole = logits(model, {**given, "input_ids": torch.cat((ids, follow), dim=1), "attention_mask": whole_mask})
    with torch.inference_mode():
        first = model(**given, logits_to_keep=1)
        twin = copy.deepcopy(first.past_key_values)
        at_once = model(follow, attention_mask=whole_mask, past_key_values=twin).logits
        steps = [first.logits[:, -1]]
        for done in range(1, 4):
            step = model(
                follow[:, done - 1 : done],
                attention_mask=whole_mask[:, : ids.shape[1] + done],
                past_key_values=first.past_key_values,
            )
            steps.append(step.logits[:, -1])
    assert first.logits.shape[1] == 1
    assert_near(torch.stack(steps, dim=1), whole[:, -4:], "logits")
    assert_near(at_once, whole[:, -3:], "logits")


def test_a_mark_that_was_generated_counts_with_a_cache_as_without(model: Any, inputs: Tensors) -> None:
    given = batch(inputs, "uniform")
    more = torch.tensor([[5, IMAGE, 6]]).repeat(3, 1)
    with torch.inference_mode():
        cache = model(given["input_ids"], pixel_values=given["pixel_values"]).past_key_values
        cached = model(more, past_key_values=cache).logits
        # The original's form of it: a position past more marks than pictures sees all latents alike.
        model.model._check_marks = lambda *_: None
        try:
            whole = model(torch.cat((given["input_ids"], more), dim=1), pixel_values=given["pixel_values"]).logits
        finally:
            del model.model._check_marks
    assert_near(cached, whole[:, -3:], "logits")


def test_text_before_its_picture_does_not_depend_on_it_and_text_after_does(model: Any, inputs: Tensors) -> None:
    ids = torch.tensor([[3, 4, IMAGE, 5, 6]])
    one, other = (logits(model, {"input_ids": ids, "pixel_values": inputs["pixel_values"][n : n + 1]}) for n in (0, 1))
    assert torch.equal(one[:, :2], other[:, :2])
    assert (one[:, 2:] - other[:, 2:]).abs().amax(dim=-1).min() > 1e-3


def test_text_between_two_pictures_depends_on_the_first_alone(model: Any, inputs: Tensors) -> None:
    ids = torch.tensor([[IMAGE, 5, 6, IMAGE, 7, 8]])
    a, b, c = inputs["pixel_values"].transpose(0, 1).chunk(3, dim=1)
    with_b, with_c = (logits(model, {"input_ids": ids, "pixel_values": torch.cat((a, x), dim=1)}) for x in (b, c))
    alone = logits(model, {"input_ids": ids[:, :3], "pixel_values": a})
    assert_near(with_b[:, :3], alone, "logits")
    assert torch.equal(with_b[:, :3], with_c[:, :3])
    assert (with_b[:, 3:] - with_c[:, 3:]).abs().amax(dim=-1).min() > 1e-3


def test_a_mask_of_half_precision_is_a_mask(model: Any, inputs: Tensors) -> None:
    given = batch(inputs, "ragged")
    half = {**given, "attention_mask": given["attention_mask"].half()}
    assert torch.equal(logits(model, half), logits(model, given))


class TestRefuses:
    def test_text_without_a_picture(self, model: Any) -> None:
        with pytest.raises(UsageError, match="give pixel_values"):
            model(torch.tensor([[IMAGE, 3]]))

    @pytest.mark.parametrize(("ids", "times"), [([3, 4, 5], 0), ([IMAGE, 3, IMAGE], 2)])
    def test_pictures_that_are_not_marked_once(self, ids: list[int], times: int, model: Any, inputs: Tensors) -> None:
        rows = torch.tensor([[3, IMAGE, 4], ids])
        with pytest.raises(UsageError, match=rf"row 1 has the <image> token \(177\) {times} times and pictures: 1"):
            model(rows, pixel_values=inputs["pixel_values"][:2])

    def test_new_pictures_on_a_used_cache(self, model: Any, inputs: Tensors) -> None:
        given = batch(inputs, "uniform")
        cache = model(**given).past_key_values
        with pytest.raises(UsageError, match="cache that holds text"):
            model(given["input_ids"], pixel_values=given["pixel_values"], past_key_values=cache)

    def test_pixels_of_five_axes(self, model: Any, inputs: Tensors) -> None:
        with pytest.raises(UsageError, match=r"\(3, 1, 3, 42, 42\)"):
            model.get_image_features(inputs["pixel_values"][:, 0])

    def test_more_frames_than_it_has_embeddings_for(self) -> None:
        config = OtterConfig.from_pretrained(CHECKPOINT, **IN_CODE, max_num_frames=2)
        video = OtterForConditionalGeneration(config).eval()
        with pytest.raises(UsageError, match="pictures of 3 frames: this Otter takes up to 2"):
            video.get_image_features(torch.zeros(1, 1, 3, 3, 42, 42))

    def test_an_image_token_outside_the_vocabulary(self) -> None:
        with pytest.raises(CheckpointError, match="image_token_id=50278 is outside the vocabulary of 180"):
            OtterForConditionalGeneration.from_pretrained(CHECKPOINT)

    def test_a_spacing_of_gated_blocks_that_leaves_none(self) -> None:
        config = OtterConfig.from_pretrained(CHECKPOINT, **{**IN_CODE, "cross_attn_every_n_layers": 9})
        with pytest.raises(CheckpointError, match="no block would see the picture"):
            OtterForConditionalGeneration(config)


def test_frames_have_embeddings_of_their_own_where_the_checkpoint_has_them(inputs: Tensors) -> None:
    config = OtterConfig.from_pretrained(CHECKPOINT, **IN_CODE, max_num_frames=2)
    torch.manual_seed(0)
    video = OtterForConditionalGeneration(config).eval()
    two = torch.cat((inputs["pixel_values"][:1], inputs["pixel_values"][1:2]), dim=2)
    with torch.inference_mode():
        forth, back = (video.get_image_features(frames).pooler_output for frames in (two, two.flip(2)))
        video.model.perceiver.frame_embs.zero_()
        still_forth, still_back = (video.get_image_features(frames).pooler_output for frames in (two, two.flip(2)))
    assert forth.shape == (1, 1, 8, 32)
    assert (forth - back).abs().max() > 1e-3
    torch.testing.assert_close(still_forth, still_back)


def test_a_new_model_starts_blind_ties_its_embedding_and_learns_to_see(inputs: Tensors) -> None:
    torch.manual_seed(0)
    model = OtterForConditionalGeneration(OtterConfig.from_pretrained(CHECKPOINT, **IN_CODE)).eval()
    ids = inputs["uniform.input_ids"]
    one, other = (logits(model, {"input_ids": ids, "pixel_values": p}) for p in inputs["pixel_values"].chunk(3)[:2])
    assert torch.equal(one, other)  # the gates are shut
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(8):
        loss = model(ids, pixel_values=inputs["pixel_values"], labels=ids).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    assert model.model.language_model.blocks[3].gated_cross_attn_layer.attn_gate.abs().item() > 1e-3


def test_the_loss_is_that_of_the_next_ids_and_checkpointing_does_not_change_it(inputs: Tensors) -> None:
    model = load(CHECKPOINT).train()
    ids = inputs["uniform.input_ids"]
    labels = ids.masked_fill(ids == IMAGE, -100)
    out = model(ids, pixel_values=inputs["pixel_values"], labels=labels)
    wanted = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(out.loss, wanted)
    out.loss.backward()
    gate = model.model.language_model.blocks[3].gated_cross_attn_layer.attn_gate
    slope = gate.grad.clone()
    model.zero_grad()
    model.activation_checkpointing_enable()
    again = model(ids, pixel_values=inputs["pixel_values"], labels=labels).loss
    again.backward()
    torch.testing.assert_close(again, out.loss)
    torch.testing.assert_close(gate.grad, slope)


@pytest.mark.slow
def test_the_static_cache_compiles_as_one_graph(model: Any, inputs: Tensors) -> None:
    from transformers import StaticCache

    given = batch(inputs, "uniform")
    length = given["input_ids"].shape[1]
    cache = StaticCache(config=model.config.text_config, max_cache_len=length + 4)
    wanted = torch.tensor(EXPECTED["cases"]["uniform"]["greedy_ids_without_ngram_rule"])[:, :2]
    with torch.inference_mode():
        first = model(**given, past_key_values=cache).logits[:, -1].argmax(-1)
        step: Any = torch.compile(model.forward, backend="eager", fullgraph=True)
        mask = torch.ones(3, length + 1, dtype=torch.long)
        second = step(input_ids=first[:, None], attention_mask=mask, past_key_values=cache).logits[:, -1].argmax(-1)
    assert torch.equal(torch.stack((first, second), dim=1), wanted)
