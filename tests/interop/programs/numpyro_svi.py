"""NumPyro, SVI as its own reference shows it with Optax. Optax: chain, clip, adam, given to SVI as they are."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.nn import softplus
from numpyro.infer import SVI, Trace_ELBO


def model(data):
    f = numpyro.sample("latent_fairness", dist.Beta(10, 10))
    with numpyro.plate("N", data.shape[0]):
        numpyro.sample("obs", dist.Bernoulli(f), obs=data)


def guide(data):
    alpha_q = numpyro.param("alpha_q", 1.0, constraint=dist.constraints.positive)
    beta_q = numpyro.param("beta_q", lambda rng_key: softplus(jax.random.normal(rng_key)))
    numpyro.sample("latent_fairness", dist.Beta(alpha_q, softplus(beta_q)))


def train(optax):
    data = jnp.concatenate([jnp.ones(30), jnp.zeros(20)])
    svi = SVI(model, guide, optax.chain(optax.clip(10.0), optax.adam(5e-2)), loss=Trace_ELBO(num_particles=16))
    svi_result = svi.run(jax.random.key(0), 150, data, progress_bar=False)
    return [float(loss) for loss in svi_result.losses]
