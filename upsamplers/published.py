"""Load weights that the authors published, under their old or new key names, into our modules."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from upsamplers.a2u import A2U
from upsamplers.base import Upsampler
from upsamplers.deconv import Deconv
from upsamplers.dysample import DySample
from upsamplers.fade import Fade
from upsamplers.freqfusion import FreqFusion
from upsamplers.indexnet import IndexNet
from upsamplers.lda_aqu import LdaAqu
from upsamplers.pixel_shuffle import PixelShuffle
from upsamplers.resfu import ReSFU

# Published name -> our name, where they differ. Patterns match at the start of a name and are applied in order.
_RENAMES: dict[type[Upsampler], list[tuple[str, str]]] = {
    Deconv: [(r"(?=weight$|bias$)", "deconv.")],
    PixelShuffle: [(r"0\.", "upsample_conv.")],
    IndexNet: [(r"index_net\.", "")],
    A2U: [(r"kernel_gen\.", "")],
    Fade: [
        (r"(ker|kernel)_generator\.", ""),
        (r"gate_generator\.conv\.", "gate."),
        (r"conv1_en\.", "compressor_en."),
        (r"conv1_de\.", "compressor_de."),
        (r"conv2_kernels$", "content_encoder.weight"),
        (r"conv2_bias$", "content_encoder.bias"),
    ],
    LdaAqu: [(r"(layer_norm|conv_offset\.1)\.norm\.", r"\1.")],
}
# Published, but not used by our modules: A2U's branch for downsampling, and constants.
_UNUSED: dict[type[Upsampler], str] = {
    A2U: r"bconv_DP\.",
    DySample: r"init_pos$",
    FreqFusion: r"hamming_(low|high)pass$|dysampler\.init_pos$",
    ReSFU: r"GF\.kernel$",
}
# In our modules, but not in every published checkpoint. If missing, our value stays.
_OPTIONAL = re.compile(r"init_pos$|.*num_batches_tracked$")


def load_published(upsampler: Upsampler, state_dict: Mapping[str, Tensor]) -> None:
    """Copy the weights of one published upsampler module into ours. Our own key names are accepted too.

    state_dict: keys relative to the upsampler module. If a DySample checkpoint has a scope bias and the module has
    none, the module gets one: build the optimizer afterwards. If only the module has one, it becomes zero, which gives
    the same function.
    Raises ValueError naming every key that is unexpected, missing, given twice or of the wrong shape. The upsampler is
    then unchanged.
    """
    given = _rename_keys(upsampler, state_dict)
    expected = upsampler.state_dict()
    scope = upsampler.scope if isinstance(upsampler, DySample) else None
    if scope is not None:
        expected.pop("scope.bias", None)
        if "scope.bias" in given or scope.bias is not None:
            expected["scope.bias"] = scope.weight.new_zeros(scope.out_channels)
            given = {"scope.bias": expected["scope.bias"], **given}

    unexpected = sorted(given.keys() - expected.keys())
    missing = sorted(key for key in expected.keys() - given.keys() if not _OPTIONAL.match(key))
    for key in given.keys() & expected.keys():
        if given[key].ndim == 2 and expected[key].shape[2:] == (1, 1):  # of a linear layer, ours a 1 x 1 convolution
            given[key] = given[key][:, :, None, None]
        if given[key].ndim == 5:  # LDA-AQU's table of biases, published as [1, 1, 1, taps, channels]
            given[key] = given[key].flatten(0, 3)
    misshapen = [
        f"{key} is {list(given[key].shape)}, not {list(expected[key].shape)}"
        for key in sorted(given.keys() & expected.keys())
        if given[key].shape != expected[key].shape
    ]
    problems = {"unexpected": unexpected, "missing": missing, "of the wrong shape": misshapen}
    found = [f"{problem}: {', '.join(keys)}" for problem, keys in problems.items() if keys]
    if found:
        raise ValueError(f"these weights do not fit {type(upsampler).__name__}; {'; '.join(found)}")

    if scope is not None and scope.bias is None and "scope.bias" in given:
        scope.bias = nn.Parameter(expected["scope.bias"])
    upsampler.load_state_dict(upsampler.state_dict() | given)


def _rename_keys(upsampler: Upsampler, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    given: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        name = key
        for pattern, replacement in _RENAMES.get(type(upsampler), []):
            name = re.sub(f"^{pattern}", replacement, name)
        unused = _UNUSED.get(type(upsampler))
        if unused is not None and re.match(unused, name):
            continue
        if name in given:
            raise ValueError(f"these weights give {name} of {type(upsampler).__name__} twice, once as {key}")
        given[name] = value
    return given
