"""The Bi-WKV operator and the elementwise work around it, in their implementations."""

from rwkvclip_models.moved import forward
from rwkvclip_models.ops.agreement import check, check_fused
from rwkvclip_models.ops.choice import (
    ImplementationStatus,
    ImplementationWarning,
    devices_of,
    dtypes_of,
    implementations,
    known,
    resolve,
)
from rwkvclip_models.ops.eager import Shift
from rwkvclip_models.ops.fused import (
    dynamic_lerp,
    gated_add,
    norm_gate,
    relu_square,
    shift_lerp,
)
from rwkvclip_models.ops.operator import bi_wkv6

__all__ = [
    "ImplementationStatus",
    "ImplementationWarning",
    "Shift",
    "bi_wkv6",
    "check",
    "check_fused",
    "devices_of",
    "dtypes_of",
    "dynamic_lerp",
    "gated_add",
    "implementations",
    "known",
    "norm_gate",
    "relu_square",
    "resolve",
    "shift_lerp",
]

forward(__name__)
