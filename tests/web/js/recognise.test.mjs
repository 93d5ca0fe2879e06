import assert from "node:assert/strict";
import test from "node:test";
import { isPair } from "../../../web/adapter/pair.mjs";
import { recognise } from "../../../web/adapter/recognise.mjs";
import { readHeader } from "../../../web/adapter/safetensors.mjs";
import { headerOf, safetensors } from "./files.mjs";

/** @param {Record<string, number[]>} shapes @param {Record<string, string>} [metadata] */
async function told(shapes, metadata) {
  return recognise(await readHeader(new Blob([safetensors(headerOf(shapes, metadata))])));
}

test("a LoKr file with its words", async () => {
  const found = await told(
    { "x.to_q.lokr_w1": [4, 2], "x.to_q.lokr_w2": [8, 6], "x.to_k.lokr_w1": [4, 2], "x.to_k.lokr_w2": [8, 6], "y.lokr_w1_a": [4, 3], "y.lokr_w1_b": [3, 2], "y.lokr_w2": [5, 5, 3, 3] },
    { "modelspec.title": "robot", ss_base_model_version: "sdxl_base_v1-0", "modelspec.trigger_phrase": " sks ", workflow: '{"nodes": []}' },
  );
  assert.deepEqual(found, {
    kind: "adapter", format: "lokr", method: "LoKr", layers: 3, title: "robot", base: "sdxl_base_v1-0", trigger: "sks", hasWorkflow: true, hasTextEncoder: false, branches: [], half: "", levels: 0,
    factors: [{ a: [4, 2], b: [8, 6], layers: 2 }, { a: [4, 2], b: [5, 5, 3, 3], layers: 1 }],
  });
});

test("parallel branches are told by what they attend to", async () => {
  const names = ["a.attn1.krona_views.to_q", "a.attn1.krona_views.to_out", "b.attn1.krona_views.to_q", "b.attn1.krona_row+col.to_v"];
  const factors = Object.fromEntries(names.flatMap((name) => [[`${name}.lokr_w1`, [4, 2]], [`${name}.lokr_w2`, [8, 6]]]));
  const found = await told({ ...factors, "a.attn1.krona_views.gate": [1], "c.attn1.krona_sideways.gate": [1] });
  assert.deepEqual([found.kind, found.format, found.method, found.layers], ["adapter", "lokr", "LoKr", 5]);
  assert.deepEqual(found.branches, [{ mode: "views", places: 2 }, { mode: "row+col", places: 1 }]);
});

test("a workflow is only one if the editor could open it", async () => {
  for (const workflow of ["", "{}", "nonsense", "[]", "null", '{"nodes": 3}']) {
    assert.equal((await told({ "a.diff": [3, 2] }, { workflow })).hasWorkflow, false, workflow);
  }
});

test("layers of a text encoder are noticed", async () => {
  for (const layer of ["lora_te_text_model_encoder_layers_0_mlp_fc1", "lora_te2_x", "text_encoder.x", "text_encoders.clip_l.x", "te1_x"]) {
    assert.equal((await told({ [`${layer}.lora_up.weight`]: [3, 2], [`${layer}.lora_down.weight`]: [2, 5] })).hasTextEncoder, true, layer);
  }
  assert.equal((await told({ "lora_unet_test.lora_up.weight": [3, 2], "lora_unet_test.lora_down.weight": [2, 5] })).hasTextEncoder, false);
});

test("a model is a checkpoint, whole or in parts", async () => {
  assert.equal((await told({ "model.diffusion_model.input_blocks.0.0.weight": [3, 2], "x.alpha": [1] })).kind, "checkpoint");
  const blocks = Object.fromEntries(Array.from({ length: 9 }, (_, i) => [`double_blocks.${i}.img_attn.qkv.weight`, [3, 2]]));
  assert.equal((await told(blocks)).kind, "checkpoint");
  assert.equal((await told({ ...blocks, "act.alpha": [4] })).kind, "checkpoint");
});

test("what else there is", async () => {
  assert.equal((await told({})).kind, "other");
  assert.equal((await told({ emb_params: [4, 768] })).kind, "other"); // a textual inversion
  assert.equal((await told({ latent_tensor: [1, 4, 8, 8] })).kind, "other");
  assert.equal((await told({ "factors.x.a": [3, 2] }, { "krona.kind": "krona.train-state" })).kind, "state");
  assert.equal((await told({ value: [3] }, { "krona.kind": "krona.packed" })).kind, "state");
  const oft = await told({ "x.oft_blocks": [4, 3, 3], "x.alpha": [1] });
  assert.deepEqual([oft.kind, oft.method], ["unsupported", "OFT"]);
});

test("the two files of a ResAdapter are told, and for how many levels", async () => {
  const conv = (/** @type {string} */ name) => ({ [`lora_unet_${name}_0_conv.lora_down.weight`]: [16, 8, 3, 3], [`lora_unet_${name}_0_conv.lora_up.weight`]: [8, 16, 1, 1], [`lora_unet_${name}_0_conv.alpha`]: [] });
  const lora = { ...conv("down_blocks_0_downsamplers"), ...conv("down_blocks_1_downsamplers"), ...conv("up_blocks_0_upsamplers") };
  const norm = (/** @type {string} */ name) => ({ [`${name}.weight`]: [8], [`${name}.bias`]: [8] });
  const norms = { ...norm("down_blocks.2.resnets.0.norm1"), ...norm("mid_block.resnets.1.norm2") };
  const of = async (/** @type {any} */ shapes) => {
    const { kind, format, layers, half, levels } = await told(shapes);
    return [kind, format, layers, half, levels];
  };
  assert.deepEqual(await of(lora), ["adapter", "lora", 3, "LoRA", 3]);
  assert.deepEqual(await of(norms), ["adapter", "norm values", 4, "norm values", 3]);
  assert.deepEqual(await of({ ...lora, "lora_unet_x.lora_up.weight": [3, 2], "lora_unet_x.lora_down.weight": [2, 5] }), ["adapter", "lora", 4, "", 0]);
  assert.deepEqual(await of({ ...norms, ...norm("mid_block.resnets.0.norm1"), "mid_block.resnets.0.norm1.weight": [9] }), ["adapter", "norm values", 4, "norm values", 3]);
  assert.equal((await told(Object.fromEntries(Object.entries(norms).map(([key, shape]) => [`encoder.${key}`, shape])))).kind, "other");
  const [one, other] = [await told(lora), await told(norms)];
  assert.ok(isPair(one, other) && isPair(other, one));
  assert.ok(!isPair(one, one) && !isPair(other, other) && !isPair(one, { ...other, levels: 4 }));
});
