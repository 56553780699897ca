"""NumPyro, SVI as its own reference shows it with Optax. Optax: chain, clip, adam, given to SVI as they are."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, Trace_ELBO


def model(data):
    height = numpyro.sample("height", dist.Normal(0, 10))
    with numpyro.plate("N", data.shape[0]):
        numpyro.sample("obs", dist.Normal(height, 1), obs=data)


def guide(data):
    loc = numpyro.param("loc", 0.0)
    scale = numpyro.param("scale", 1.0, constraint=dist.constraints.positive)
    numpyro.sample("height", dist.Normal(loc, scale))


def train(optax):
    data = jnp.linspace(1.0, 3.0, 20)
    svi = SVI(model, guide, optax.chain(optax.clip(10.0), optax.adam(5e-2)), loss=Trace_ELBO(num_particles=16))
    svi_result = svi.run(jax.random.key(0), 100, data, progress_bar=False)
    return svi_result.losses.tolist()
