"""NumPyro, Bayesian regression by SVI with an AutoNormal guide. Optax: adam, through numpyro.optim.optax_to_numpyro."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.optim import optax_to_numpyro

from tests.interop.programs.data import diabetes


def model(x, y=None):
    intercept = numpyro.sample("intercept", dist.Normal(0, 1))
    weights = numpyro.sample("weights", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.Exponential(1.0))
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("obs", dist.Normal(intercept + x @ weights, sigma), obs=y)


def train(optax):
    x, y = diabetes()
    guide = AutoNormal(model)
    optimizer = optax_to_numpyro(optax.adam(0.05))
    svi = SVI(model, guide, optimizer, loss=Trace_ELBO())
    svi_result = svi.run(jax.random.key(0), 100, jnp.asarray(x), jnp.asarray(y), progress_bar=False)
    return svi_result.losses.tolist()
