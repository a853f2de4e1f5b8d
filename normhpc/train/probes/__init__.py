"""What is measured inside the network while it trains: ``probes: {name: layers}``.

Measured are the first micro-batch of a step and the images of rank 0 alone, in the pass that learns, before the update.
With n the images measured, (n, C, H, W) the shape of a tensor, and variances and deviations unbiased:

======================= ============================================ =================================================
measure                 of                                           formula
======================= ============================================ =================================================
``conv_std``            the output of each ``Conv2d``                mean over channels of the deviation over (n, H, W)
``gradient_norm``       dL/d(output) of each ``Conv2d``              Frobenius norm, L the mean loss over the n images
``norm_mean``           the input of each norm slot                  mean over channels of |mean over (n, H, W)|
``norm_variance``       the input of each norm slot                  mean over channels of the variance over (n, H, W)
``dead_channels``       the output of each norm slot                 share of channels without a positive value, or
                                                                     with the same value everywhere
``activation_variance`` the output of each activation                mean over channels of the variance over (n, H, W)
``activation_cosine``   K = U U^T, rows of U the samples of an       mean over i of (sum_j K_ij - 1) / (n - 1)
                        activation's output at unit length
``activation_rank``     the same K                                   stable rank tr(K) / largest eigenvalue of K
======================= ============================================ =================================================

A sample of zeros has no direction: it is left out of K, and n is the number of the others. The cosine of fewer than two
is NaN, the rank of none 0. An activation is a slot that ends with one, a plain activation behind a sum, and an
activation module of a foreign network; of a module, not of a bare call. Tokens (N, S, C) count as (N, C, S, 1),
(N, H, W, C) as (N, C, H, W).

Which axis of a foreign activation holds the channels, the convolution, linear layer or norm called last tells. Where
its output has another number of dimensions, or of channels, nothing is known, and ``activation_variance`` left out.

``feature_quantiles`` are taken after each epoch of all numbers in the features, the input of the classifier
(:func:`normhpc.models.classifier`, which must be linear), of all ``val`` images over all ranks, with the weights that
are evaluated: the averaged ones where ``optim.ema_decay`` asks for them. Layers are measured with the raw ones.
"""

from normhpc.train.probes.features import check_classifier as check_classifier
from normhpc.train.probes.features import feature_quantiles as feature_quantiles
from normhpc.train.probes.features import kept_features as kept_features
from normhpc.train.probes.layers import LayerProbes as LayerProbes
from normhpc.train.probes.layers import Reading as Reading
from normhpc.train.probes.recorder import ProbeRecorder as ProbeRecorder
