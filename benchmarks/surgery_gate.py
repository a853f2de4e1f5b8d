"""Which networks of torchvision and timm can be rewritten, proven by the bitwise identity gate, one by one.

    nice python benchmarks/surgery_gate.py [--only NAME ...] [--out benchmarks/results/surgery_gate.md]
    python benchmarks/surgery_gate.py --counts normhpc/config/model/torchvision_sites.json

The first builds each network with fresh weights, rewrites it with its own norms and compares its outputs on two random
images, of 64x64 or the least it takes, in training and in evaluation; then every norm is replaced by dynamic tanh,
which any place takes, and one gradient is computed. The second counts the places of every classifier of torchvision,
without computing anything, for ``normhpc list models`` and ``--dry-run``.
"""

import argparse
import json
import time
import warnings
from collections import Counter
from pathlib import Path

import torch
import torchvision
from torch import nn

from normhpc import norms
from normhpc.errors import InputError
from normhpc.models.zoo import timm_network, torchvision_network
from normhpc.norms.plan import KINDS
from normhpc.norms.surgery import read
from normhpc.norms.surgery.gate import check_identity

NETWORKS = {
    "torchvision": """
    resnet18 resnet50 wide_resnet50_2 resnext50_32x4d densenet121 efficientnet_b0 efficientnet_v2_s maxvit_t
    regnet_y_400mf googlenet inception_v3 shufflenet_v2_x1_0 mobilenet_v2 mobilenet_v3_large mnasnet0_5 convnext_tiny
    swin_t swin_v2_t vit_b_16 vgg11_bn
    """,
    "timm": """
    resnet18 resnet26d resnet50_gn resnetv2_50 resnetv2_50x1_bit resnext26ts res2net50_14w_8s resnest14d seresnet18
    legacy_seresnet18 skresnet18 ecaresnet26t wide_resnet50_2 densenet121 dla34 dpn48b vovnet39a ese_vovnet19b_dw
    hrnet_w18_small darknet17 cspresnet50 cspdarknet53 repvgg_a0 gernet_s mobileone_s0 regnetx_002 regnety_002
    regnetz_005 efficientnet_b0 efficientnet_lite0 efficientnetv2_rw_t tf_efficientnetv2_b0 mixnet_s fbnetc_100 spnasnet_100
    mnasnet_small mobilenetv2_050 mobilenetv3_small_050 lcnet_035 tinynet_e ghostnet_050 hardcorenas_a rexnet_100
    inception_next_tiny xception41 inception_v4 convnext_atto convnextv2_atto convmixer_768_32 edgenext_xx_small
    fastvit_t8 poolformer_s12 mobilevit_xxs mobilevitv2_050 levit_128s vit_tiny_patch16_224 deit_tiny_patch16_224
    swin_tiny_patch4_window7_224 pvt_v2_b0 mixer_s32_224 coat_tiny crossvit_tiny_240 xcit_nano_12_p16_224
    repghostnet_050 starnet_s1 test_resnet test_efficientnet vgg11_bn visformer_tiny
    efficientvit_b0 hgnetv2_b0 mobilenetv4_conv_small_050 tiny_vit_5m_224 efficientformer_l1 repvit_m0_9
    focalnet_tiny_srf twins_svt_small davit_tiny hiera_tiny_224
    """,
}

SIZES = (64, 96, 128, 160, 192, 224, 240, 256, 288, 299)


def build(library: str, name: str) -> nn.Module:
    """A network with fresh weights for 10 classes."""
    torch.manual_seed(0)
    return {"torchvision": torchvision_network, "timm": timm_network}[library](name, 3, 10)


def smallest_image(network: nn.Module) -> torch.Tensor:
    """Two random images of the least size that ``network`` takes."""
    for size in SIZES:
        images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                network.eval()(images)
        except Exception:
            continue
        network.train()
        return images
    raise InputError(f"takes none of {SIZES}")


def gate(library: str, name: str) -> list[str]:
    """The row of one network: name, size, sites per kind, verdict, seconds."""
    label = f"{library}/{name}"
    began = time.perf_counter()
    try:
        network = build(library, name)
        images = smallest_image(network)
        size = str(images.shape[-1])
    except Exception as error:
        return [label, "", *[""] * len(KINDS), f"not built: {first_line(error)}", ""]
    began = time.perf_counter()
    try:
        model, graph, places = read(network, images)
        counts = Counter(place.kind for place in places)
        check_identity(model, graph, places, images, name)
        seconds = time.perf_counter() - began
        verdict = after_swap(network, images)
    except Exception as error:
        seconds, verdict = time.perf_counter() - began, f"refused: {first_line(error)}"
        counts = Counter()
    return [label, size, *(str(counts[kind] or "") for kind in KINDS), verdict, f"{seconds:.1f}"]


def after_swap(network: nn.Module, images: torch.Tensor) -> str:
    """Replace every norm, compute a gradient and hold the names of what is saved against those before."""
    swapped, plan = norms.swap(network, "dyt", images)
    swapped(images).float().sum().backward()
    sites = tuple(f"{site.name}." for site in plan.sites)
    before, after = ({key for key in each.state_dict() if not key.startswith(sites)} for each in (network, swapped))
    return "identical" if before == after else f"identical, but other names: {sorted(before ^ after)[0]}"


def first_line(error: Exception) -> str:
    """What a table has room for."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split("; replace_norms")[0].replace("|", "/")


def counted() -> dict[str, dict[str, int]]:
    """Sites per kind of every classifier of torchvision that can be rewritten, computed without numbers."""
    found: dict[str, dict[str, int]] = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        network = build("torchvision", name).to("meta")
        for size in SIZES:
            try:
                counts = Counter(place.kind for place in read(network, torch.zeros(2, 3, size, size, device="meta"))[2])
            except InputError as error:
                if "cannot take images" in str(error):
                    continue
                counts = Counter()
                print(error, flush=True)
            found[name] = {kind: counts[kind] for kind in KINDS if counts[kind]}
            print(name, found[name], flush=True)
            break
    return found


def main() -> None:
    """Write the table, or the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="networks, as library/name")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--counts", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.counts:
        lines = (f" {json.dumps(name)}: {json.dumps(counts)}" for name, counts in counted().items())
        options.counts.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return
    names = options.only or [f"{library}/{name}" for library, all in NETWORKS.items() for name in all.split()]
    rows = [["network", "image", *KINDS, "gate", "seconds"], ["---", "--:", *["--:"] * len(KINDS), "---", "--:"]]
    for name in names:
        rows.append(gate(*name.split("/", 1)))
        print(" | ".join(rows[-1]), flush=True)
    if options.out:
        passed = {
            library: f"{sum(row[-2] == 'identical' for row in mine)} of {len(mine)}"
            for library in ("torchvision", "timm")
            if (mine := [row for row in rows[2:] if row[0].startswith(f"{library}/")])
        }
        text = ", ".join(f"{count} of {library}" for library, count in passed.items())
        options.out.write_text(
            "# Networks through the identity gate\n\n"
            f"`python benchmarks/surgery_gate.py --out {options.out}`, torch {torch.__version__}, torchvision "
            f"{torchvision.__version__}{timm_version()}, CPU, fresh weights, two images.\n\n"
            f"Bitwise identical in training and evaluation, every norm replaceable: {text} networks. Columns norm_act, "
            "lone and token count places; seconds are those of reading the network and of the gate.\n\n"
            + "\n".join(f"| {' | '.join(row)} |" for row in rows)
            + "\n"
        )


def timm_version() -> str:
    """ ", timm 1.2.3", where it is installed."""
    try:
        import timm
    except ImportError:
        return ""
    return f", timm {timm.__version__}"


if __name__ == "__main__":
    main()
