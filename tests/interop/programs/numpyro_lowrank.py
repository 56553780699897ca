"""NumPyro, logistic regression by SVI with an AutoLowRankMultivariateNormal guide.

Optax: chain, clip, adam, exponential_decay, through numpyro.optim.optax_to_numpyro and svi.update.
"""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, TraceMeanField_ELBO
from numpyro.infer.autoguide import AutoLowRankMultivariateNormal
from numpyro.optim import optax_to_numpyro

from tests.interop.programs.data import diabetes


def model(x, y=None):
    weights = numpyro.sample("weights", dist.Laplace(0, 1).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("obs", dist.Bernoulli(logits=x @ weights), obs=y)


def train(optax):
    x, y = diabetes()
    data = jnp.asarray(x), jnp.asarray(y > 0, jnp.float32)
    schedule = optax.exponential_decay(init_value=0.1, transition_steps=50, decay_rate=0.5, end_value=1e-3)
    optimizer = optax.chain(optax.clip(10.0), optax.adam(learning_rate=schedule, b1=0.95, b2=0.999))
    guide = AutoLowRankMultivariateNormal(model, rank=2)
    svi = SVI(model, guide, optax_to_numpyro(optimizer), loss=TraceMeanField_ELBO())
    svi_state = svi.init(jax.random.key(1), *data)
    update = jax.jit(svi.update)
    history = []
    for _ in range(80):
        svi_state, loss = update(svi_state, *data)
        history.append(float(loss))
    return history
