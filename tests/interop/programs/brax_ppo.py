"""Proximal policy optimization as in Brax and PureJaxRL, all of it in lax.scan, on a hand-written environment.

Optax: chain, clip_by_global_norm, adam(eps) with a rate that is a plain function of the count, apply_updates in scans.
"""

import functools

import jax
import jax.numpy as jnp

ENVS, UNROLL, ITERATIONS, EPOCHS, LEARNING_RATE = 32, 16, 15, 4, 1e-2


def env_step(state, action):
    """A mass on a line, to be brought to 0 and kept there."""
    x, v = state
    v = 0.9 * v + 0.3 * jnp.clip(action, -1, 1)
    x = jnp.clip(x + 0.3 * v, -2, 2)
    return (x, v), -(x**2) - 0.1 * v**2


def init(key, sizes=(2, 32, 2)):
    keys = jax.random.split(key, len(sizes))
    scaled = zip(keys, sizes[:-1], sizes[1:], strict=False)
    layers = [{"w": jax.random.normal(k, (a, b)) * (0.5 / a) ** 0.5, "b": jnp.zeros(b)} for k, a, b in scaled]
    return {"layers": layers, "log_std": jnp.array(-0.5)}


def policy(params, obs):
    """Mean of the action, and value."""
    first, last = params["layers"]
    out = jnp.tanh(obs @ first["w"] + first["b"]) @ last["w"] + last["b"]
    return out[..., 0], out[..., 1]


def log_prob(mean, log_std, action):
    return -0.5 * ((action - mean) / jnp.exp(log_std)) ** 2 - log_std


def ppo_loss(params, obs, actions, old_log_probs, advantages, returns):
    mean, value = policy(params, obs)
    ratio = jnp.exp(log_prob(mean, params["log_std"], actions) - old_log_probs)
    surrogate = jnp.minimum(ratio * advantages, jnp.clip(ratio, 0.8, 1.2) * advantages)
    return -jnp.mean(surrogate) + 0.5 * jnp.mean((value - returns) ** 2) - 1e-3 * params["log_std"]


def train(optax):
    def linear_schedule(count):
        return LEARNING_RATE * (1.0 - (count // EPOCHS) / ITERATIONS)

    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(learning_rate=linear_schedule, eps=1e-5))

    def unroll(params, env_state, key):
        x, v = env_state
        obs = jnp.stack([x, v], axis=-1)
        mean, value = policy(params, obs)
        action = mean + jnp.exp(params["log_std"]) * jax.random.normal(key, mean.shape)
        env_state, reward = env_step(env_state, action)
        return env_state, (obs, action, log_prob(mean, params["log_std"], action), value, reward)

    def training_step(carry, key):
        params, opt_state = carry
        reset, act = jax.random.split(key)
        env_state = tuple(jax.random.uniform(reset, (2, ENVS), minval=-1, maxval=1))
        _, data = jax.lax.scan(functools.partial(unroll, params), env_state, jax.random.split(act, UNROLL))
        obs, actions, log_probs, values, rewards = data
        discounted = lambda total, reward: (reward + 0.9 * total,) * 2
        _, returns = jax.lax.scan(discounted, jnp.zeros(ENVS), rewards, reverse=True)
        advantages = returns - values
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)

        def sgd_step(carry, _):
            params, opt_state = carry
            grads = jax.grad(ppo_loss)(params, obs, actions, log_probs, advantages, returns)
            updates, opt_state = optimizer.update(grads, opt_state)
            return (optax.apply_updates(params, updates), opt_state), None

        carry, _ = jax.lax.scan(sgd_step, (params, opt_state), length=EPOCHS)
        return carry, -rewards.mean()

    params = init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), ITERATIONS)
    _, costs = jax.jit(functools.partial(jax.lax.scan, training_step))((params, optimizer.init(params)), keys)
    return costs.tolist()
