"""A memory layer in plain JAX, without flax: parameters in a dict, time by the pure functions.

`linear_recurrence` is a decaying vector (here with a decay that the input chooses, as in minGRU) and
`matrix_recurrence` an associative memory of keys and values (here the delta rule, which replaces what a key held). Both
take `reset` and a carry, both are exact at the reset, and neither knows of parameters: equinox, haiku or a dict
will do. The layer is trained to recall values by key, where half-way through each stream a new episode begins and
everything from before it must be forgotten.

Run: uv run python examples/pure_jax.py

Legend: T steps, B streams, D width of the layer, H heads, n width of a head, S symbols.
"""

import jax
import jax.numpy as jnp
import optax

from hippodrome.memory import linear_recurrence, matrix_recurrence

NUM_STEPS, NUM_STREAMS, NUM_KEYS, NUM_VALUES = 24, 64, 4, 4
WIDTH, NUM_HEADS = 32, 2


@jax.jit
def init(key):
    """Parameters as a dict of arrays."""
    shapes = {
        "key_embedding": (NUM_KEYS, WIDTH),
        "value_embedding": (NUM_VALUES + 1, WIDTH),
        "gate": (WIDTH, 2 * WIDTH),
        "qkv": (WIDTH, 3 * WIDTH),
        "beta": (WIDTH, NUM_HEADS),
        "out": (2 * WIDTH, NUM_VALUES),
    }
    keys = jax.random.split(key, len(shapes))
    return {
        name: jax.random.normal(each, shape) * shape[0] ** -0.5
        for each, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def initial_carry(num_streams):
    """(vector `[B, D]`, matrices `[B, H, n, n]`), zeros: what a reset loads too."""
    head = WIDTH // NUM_HEADS
    return jnp.zeros((num_streams, WIDTH)), jnp.zeros((num_streams, NUM_HEADS, head, head))


def apply(params, carry, symbols, reset):
    """The layer on a whole sequence: the next carry and logits `[T, B, NUM_VALUES]`.

    symbols: (key, value), int `[T, B]` each; value NUM_VALUES asks what the key holds. reset: bool `[T, B]`.
    """
    asked, given = symbols
    x = params["key_embedding"][asked] + params["value_embedding"][given]

    gate, candidate = jnp.split(x @ params["gate"], 2, axis=-1)
    keep = jax.nn.sigmoid(gate + 2.0)
    states, vector = linear_recurrence(keep, (1.0 - keep) * candidate, reset, carry[0])

    q, k, v = (each.reshape(*each.shape[:-1], NUM_HEADS, -1) for each in jnp.split(x @ params["qkv"], 3, axis=-1))
    q, k = (each / jnp.linalg.norm(each, axis=-1, keepdims=True) for each in (q, k))
    beta = jax.nn.sigmoid(x @ params["beta"])
    no_decay = jnp.zeros_like(beta)
    recalled, matrices = matrix_recurrence(q, k, v, no_decay, reset, carry[1], beta, chunk_size=8)

    features = jnp.concatenate([states, recalled.reshape(x.shape)], axis=-1)
    return (vector, matrices), features @ params["out"]


@jax.jit
def make_data(key):
    """Streams of (key, value) pairs and questions: symbols, reset, the answers and where there is one, `[T, B]` each.

    A question may be about a key that was given in this episode; the answer is its latest value.
    """
    keys = jax.random.split(key, 3)
    shape = (NUM_STEPS, NUM_STREAMS)
    asked = jax.random.randint(keys[0], shape, 0, NUM_KEYS)
    value = jax.random.randint(keys[1], shape, 0, NUM_VALUES)
    is_question = jax.random.bernoulli(keys[2], 0.5, shape)
    reset = jnp.zeros(shape, bool).at[0].set(True).at[NUM_STEPS // 2].set(True)

    def remember(table, now):
        asked_t, value_t, question_t, reset_t = now
        table = jnp.where(reset_t[:, None], -1, table)
        held = jnp.take_along_axis(table, asked_t[:, None], axis=1)[:, 0]
        written = jnp.where(jax.nn.one_hot(asked_t, NUM_KEYS, dtype=bool), value_t[:, None], table)
        return jnp.where(question_t[:, None], table, written), held

    table = jnp.full((NUM_STREAMS, NUM_KEYS), -1)
    _, held = jax.lax.scan(remember, table, (asked, value, is_question, reset))
    symbols = (asked, jnp.where(is_question, NUM_VALUES, value))
    return symbols, reset, held, is_question & (held >= 0)


def loss(params, data):
    """Cross entropy where there is an answer, and the share of right answers there."""
    symbols, reset, answer, counts = data
    _, logits = apply(params, initial_carry(NUM_STREAMS), symbols, reset)
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(answer, 0))
    return entropy.mean(where=counts), (logits.argmax(-1) == answer).mean(where=counts)


optimizer = optax.adam(1e-2)


@jax.jit
def update(params, optimizer_state, key):
    """One gradient step on fresh streams."""
    (value, accuracy), grads = jax.value_and_grad(loss, has_aux=True)(params, make_data(key))
    changes, optimizer_state = optimizer.update(grads, optimizer_state)
    return optax.apply_updates(params, changes), optimizer_state, value, accuracy


def check_resets(params) -> None:
    """What came before a reset, nan included, changes nothing after it; nor does cutting the sequence there."""
    symbols, reset, _, _ = make_data(jax.random.key(1))
    cut = NUM_STEPS // 2
    run = jax.jit(apply)
    _, logits = run(params, initial_carry(NUM_STREAMS), symbols, reset)
    other_past = jax.tree.map(lambda each: each.at[:cut].set(0), symbols)
    spoilt = jax.tree.map(lambda each: jnp.full_like(each, jnp.nan), initial_carry(NUM_STREAMS))
    # The first reset is taken away, so that the spoilt carry is used up to the second.
    _, after_nan = run(params, spoilt, other_past, reset.at[0].set(False))
    assert jnp.isnan(after_nan[:cut]).all() and jnp.allclose(after_nan[cut:], logits[cut:], atol=1e-5)

    def part(each):
        return each[cut:]

    _, fresh = run(params, initial_carry(NUM_STREAMS), jax.tree.map(part, symbols), part(reset))
    assert jnp.allclose(fresh, logits[cut:], atol=1e-5)


def main(num_updates: int = 60) -> float:
    """Train, print loss and accuracy (chance is 0.25), check the resets, return the last accuracy."""
    init_key, key = jax.random.split(jax.random.key(0))
    params = init(init_key)
    optimizer_state = optimizer.init(params)
    for index in range(num_updates):
        params, optimizer_state, value, accuracy = update(params, optimizer_state, jax.random.fold_in(key, index))
        if index % 20 == 0 or index == num_updates - 1:
            print(f"update {index:3d}: loss {value:.3f}, right answers {accuracy:.2f}")
    check_resets(params)
    print("resets: nothing of the first episode is in the second, not even nan")
    assert accuracy > 0.4, f"{accuracy:.2f} right answers, no better than chance"
    return float(accuracy)


if __name__ == "__main__":
    main()
