"""Optax's gallery, adversarial training by projected gradients. Optax: adam, update without params, apply_updates."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from optax.losses import softmax_cross_entropy_with_integer_labels
from optax.tree_utils import tree_norm

from tests.interop.programs.data import batches, digits

L2_REG, EPSILON = 1e-4, 0.05


class CNN(nn.Module):
    """A simple CNN model."""

    num_classes: int

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(features=8, kernel_size=(3, 3))(x)
        x = nn.relu(x)
        x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = x.reshape((x.shape[0], -1))
        x = nn.Dense(features=32)(x)
        x = nn.relu(x)
        return nn.Dense(features=self.num_classes)(x)


def train(optax):
    net = CNN(10)

    def loss_fun(params, l2reg, data):
        inputs, labels = data
        logits = net.apply({"params": params}, inputs)
        sqnorm = tree_norm(params, squared=True)
        return jnp.mean(softmax_cross_entropy_with_integer_labels(logits, labels)) + 0.5 * l2reg * sqnorm

    def pgd_attack(image, label, params, epsilon=0.1, maxiter=5):
        """Perturbs images within the ball of the maximum norm, so that the loss is largest."""

        def adversarial_loss(perturbation):
            return loss_fun(params, 0, (image + perturbation, label))

        def step(_, perturbation):
            sign_grad = jnp.sign(jax.grad(adversarial_loss)(perturbation))
            perturbation += (2 * epsilon / maxiter) * sign_grad
            return jnp.clip(perturbation, -epsilon, epsilon)

        image_perturbation = jax.lax.fori_loop(0, maxiter, step, jnp.zeros_like(image))
        return jnp.clip(image + image_perturbation, 0, 1)

    optimizer = optax.adam(3e-3)
    params = net.init(jax.random.PRNGKey(0), jnp.zeros((1, 8, 8, 1)))["params"]
    opt_state = optimizer.init(params)

    @jax.jit
    def train_step(params, opt_state, batch):
        images, labels = batch
        adversarial_images_train = pgd_attack(images, labels, params, epsilon=EPSILON)
        loss, grads = jax.value_and_grad(loss_fun)(params, L2_REG, (adversarial_images_train, labels))
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return params, opt_state, loss

    history = []
    for batch in batches(digits(), batch_size=64, steps=50):
        params, opt_state, loss = train_step(params, opt_state, batch)
        history.append(float(loss))
    return history
