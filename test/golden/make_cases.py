#!/usr/bin/env python3
"""Makes the golden numbers that tests compare options of config.json with, by Hugging Face transformers itself.

    make_cases.py rope OUT.json      rotary frequencies; transformers 5 (configurations and arithmetic only)
    make_cases.py options OUT.json   logits and gradients of tiny models; any transformers whose models run

Weights are not stored: element i of a tensor is a hash of its name and i, which the tests compute as well.
SPDX-License-Identifier: Apache-2.0"""

import json
import sys

import numpy
import torch
import transformers

LLAMA = dict(model_type="llama", hidden_size=16, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=2,
             intermediate_size=24, vocab_size=32, max_position_embeddings=64)
GPT2 = dict(model_type="gpt2", n_embd=16, n_head=2, n_layer=2, vocab_size=32, n_positions=64)

SHORT, LONG = [1.0, 1.05, 1.2, 1.5], [1.1, 2.0, 3.5, 6.0]
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)


def config_class(config):
    return transformers.LlamaConfig if config["model_type"] == "llama" else transformers.GPT2Config


def make_config(config):
    return config_class(config)(**{k: v for k, v in json.loads(json.dumps(config)).items() if k != "model_type"})


# --- rotary frequencies ---

def rope_cases():
    wide = dict(LLAMA, hidden_size=64, num_attention_heads=1, max_position_embeddings=8192)

    def case(name, sequence=32, base=wide, **config):
        return dict(name=name, sequence=sequence, config=dict(base, **config))

    def new(**options):
        return dict(rope_parameters=options)

    def old(**options):
        return dict(rope_scaling=options)

    factors = dict(short_factor=SHORT, long_factor=LONG)
    narrow = dict(LLAMA, max_position_embeddings=64)
    return [
        case("default"),
        case("default, head_dim", base=narrow, head_dim=10, rope_theta=500.0),
        case("default, new keys", **new(rope_type="default", rope_theta=1e6)),
        case("linear, type", rope_theta=5e5, **old(type="linear", factor=4.0)),
        case("linear, new keys", **new(rope_type="linear", factor=2.5, rope_theta=500.0)),
        case("dynamic within", sequence=8192, **old(type="dynamic", factor=2.0)),
        case("dynamic beyond", sequence=20000, **old(rope_type="dynamic", factor=2.0)),
        case("dynamic far beyond, new keys", sequence=50000, **new(rope_type="dynamic", factor=4.0, rope_theta=1e5)),
        case("yarn", **old(rope_type="yarn", factor=4.0)),
        case("yarn, original", **old(type="yarn", factor=4.0, original_max_position_embeddings=2048)),
        case("yarn, betas and attention_factor", **new(rope_type="yarn", factor=16.0, beta_fast=20.0, beta_slow=2.0,
             attention_factor=1.25, original_max_position_embeddings=512, rope_theta=1e6)),
        case("yarn, mscale", **old(rope_type="yarn", factor=40.0, mscale=1.0, mscale_all_dim=0.707,
             original_max_position_embeddings=4096)),
        case("yarn, not truncated", **old(rope_type="yarn", factor=32.0, truncate=False,
             original_max_position_embeddings=4096)),
        case("yarn, short ramp", base=narrow, **old(rope_type="yarn", factor=2.0)),
        case("yarn, factor null", **old(rope_type="yarn", factor=None, original_max_position_embeddings=1024)),
        case("yarn, outer original", original_max_position_embeddings=1024, **old(rope_type="yarn", factor=8.0)),
        case("longrope short", base=narrow, sequence=16, **old(rope_type="longrope",
             original_max_position_embeddings=16, **factors)),
        case("longrope long", base=narrow, sequence=17, **old(type="longrope", original_max_position_embeddings=16,
             **factors)),
        case("longrope, factor", base=narrow, **new(rope_type="longrope", factor=3.0,
             original_max_position_embeddings=32, rope_theta=500.0, **factors)),
        case("longrope, attention_factor and outer original", base=narrow, sequence=33,
             original_max_position_embeddings=32, **old(rope_type="longrope", attention_factor=1.5, **factors)),
        case("llama3", rope_theta=5e5, rope_scaling=dict(LLAMA3, original_max_position_embeddings=8192)),
        case("llama3, new keys", **new(rope_theta=1e4, **dict(LLAMA3, factor=32.0,
             original_max_position_embeddings=256))),
        case("proportional", **new(rope_type="proportional", rope_theta=1e6, partial_rotary_factor=0.25)),
        case("proportional, factor", base=narrow, **new(rope_type="proportional", factor=8.0,
             partial_rotary_factor=0.8, rope_theta=1e4)),
    ]


def add_frequencies(case):
    import transformers.modeling_rope_utils as rope
    rope.torch = torch  # which transformers itself does not import where it finds it too old for its models
    config = make_config(case["config"])
    parameters = config.rope_parameters
    if parameters["rope_type"] == "default":
        half = torch.arange(0, config.head_dim, 2, dtype=torch.float) / config.head_dim
        frequencies, magnitude = 1.0 / parameters["rope_theta"] ** half, 1.0
    else:
        function = rope.ROPE_INIT_FUNCTIONS[parameters["rope_type"]]
        frequencies, magnitude = function(config, torch.device("cpu"), seq_len=case["sequence"])
    case["frequencies"] = [float(numpy.format_float_positional(x, unique=True)) if x else 0.0
                           for x in frequencies.numpy()]
    case["magnitude"] = float(magnitude)


# --- models ---

def option_cases():
    def llama(name, sequence=24, **config):
        return dict(name="llama, " + name, sequence=sequence, config=dict(LLAMA, **config))

    def gpt2(name, sequence=24, **config):
        return dict(name="gpt2, " + name, sequence=sequence, config=dict(GPT2, **config))

    no_groups = dict(num_key_value_heads=None)
    longrope = dict(rope_type="longrope", factor=4.0, short_factor=SHORT, long_factor=LONG)
    return [
        llama("defaults"),
        llama("as many kv heads", **no_groups),
        llama("tied", tie_word_embeddings=True),
        llama("biases", attention_bias=True, mlp_bias=True),
        llama("head_dim", head_dim=12),
        llama("eps", rms_norm_eps=0.05),
        llama("theta", rope_theta=20.0),
        llama("pretraining_tp", pretraining_tp=2),
        *[llama(a, hidden_act=a) for a in ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")],
        llama("linear", rope_scaling=dict(type="linear", factor=4.0)),
        llama("dynamic within", rope_scaling=dict(type="dynamic", factor=2.0)),
        llama("dynamic beyond", max_position_embeddings=16, rope_scaling=dict(rope_type="dynamic", factor=2.0)),
        llama("yarn", rope_scaling=dict(rope_type="yarn", factor=4.0, beta_fast=4.0)),
        llama("yarn, attention_factor", rope_scaling=dict(rope_type="yarn", factor=4.0, attention_factor=1.5)),
        llama("longrope short", rope_scaling=longrope),
        llama("longrope long", original_max_position_embeddings=16, rope_scaling=dict(longrope, factor=None)),
        llama("llama3", rope_scaling=LLAMA3),
        gpt2("defaults"),
        gpt2("untied", tie_word_embeddings=False),
        gpt2("n_inner and eps", n_inner=20, layer_norm_epsilon=0.05),
        *[gpt2(a, activation_function=a) for a in ("gelu", "gelu_pytorch_tanh", "gelu_fast", "relu", "silu")],
        gpt2("scale_attn_weights", scale_attn_weights=False),
        gpt2("scale_attn_by_inverse_layer_idx", scale_attn_by_inverse_layer_idx=True),
        gpt2("reorder_and_upcast_attn", reorder_and_upcast_attn=True, scale_attn_by_inverse_layer_idx=True),
    ]


def hashed(name, n):
    """n numbers in [-1, 1) from the tensor's name: FNV-1a, then a mixer of 32-bit integers."""
    seed = 2166136261
    for byte in name.encode():
        seed = (seed ^ byte) * 16777619 % 2**32
    x = (seed + numpy.arange(n, dtype=numpy.uint64) * 2654435769) % 2**32
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> shift)) * factor % 2**32
    x ^= x >> 16
    return x / 2.0**31 - 1.0


def set_weights(model):
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            values = hashed(name, tensor.numel())
            if tensor.dim() > 1:
                values *= 0.4
            elif name.endswith(".weight"):
                values = 1 + 0.2 * values
            else:
                values *= 0.2
            tensor.copy_(torch.tensor(values.astype(numpy.float32)).reshape(tensor.shape))


def add_results(case):
    # Not every version's other attentions know every option.
    config = make_config(case["config"])
    config._attn_implementation = "eager"
    classes = dict(llama=transformers.LlamaForCausalLM, gpt2=transformers.GPT2LMHeadModel)
    model = classes[case["config"]["model_type"]](config).double().eval()
    set_weights(model)
    n = case["sequence"]
    if (case["config"].get("rope_scaling") or {}).get("rope_type") == "longrope":
        # Old versions never come to the long factors by themselves.
        rotary = model.model.rotary_emb
        rotary.inv_freq, _ = rotary.rope_init_fn(config, torch.device("cpu"), seq_len=n)
    ids = torch.tensor([[(3 * i * i + 11 * i + 5) % 32 for i in range(n + 1)]])
    logits = model(ids[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits[0], ids[0, 1:])
    loss.backward()
    case["loss"] = loss.item()
    case["rows"] = [0, n // 2, n - 1]
    case["logits"] = [[round(x, 6) for x in logits[0, row].tolist()] for row in case["rows"]]
    case["gradients"] = {}
    for name, tensor in model.named_parameters():
        gradient = tensor.grad.reshape(-1).numpy()
        along = (gradient * hashed("along " + name, gradient.size)).sum()
        case["gradients"][name] = [float("%.6g" % numpy.linalg.norm(gradient)), float("%.6g" % along)]


def main():
    kinds = dict(rope=(rope_cases, add_frequencies), options=(option_cases, add_results))
    if len(sys.argv) != 3 or sys.argv[1] not in kinds:
        sys.exit(__doc__)
    make, add = kinds[sys.argv[1]]
    cases = make()
    for case in cases:
        add(case)
    with open(sys.argv[2], "w") as file:
        file.write('{"made_with": "transformers %s, torch %s",\n "cases": [\n' % (transformers.__version__,
                                                                               torch.__version__.split("+")[0]))
        file.write(",\n".join(json.dumps(case) for case in cases) + "\n]}\n")


main()
