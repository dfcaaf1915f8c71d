"""What learners compute, as plain NumPy loops in float64."""

import numpy as np


def advantages(reward, value, next_value, terminated, truncated, discount, gae_lambda):
    """Generalised advantages of one trajectory [T], each as its sum of discounted errors up to the episode's end."""
    n = len(reward)
    result = np.zeros(n)
    for t in range(n):
        weight = 1.0
        for k in range(t, n):
            bootstrap = 0.0 if terminated[k] else next_value[k]
            result[t] += weight * (reward[k] + discount * bootstrap - value[k])
            if terminated[k] or truncated[k]:
                break
            weight *= discount * gae_lambda
    return result


def mlp(layers, x):
    """One observation [n] through tanh layers."""
    for i, (kernel, bias) in enumerate(layers):
        x = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64) + np.asarray(bias, np.float64)
        if i < len(layers) - 1:
            x = np.tanh(x)
    return x


def gaussian(params, obs):
    """(mean, log standard deviation) of a feed-forward policy at one observation."""
    scaler = params.scaler
    scaled = (np.asarray(obs, np.float64) - np.asarray(scaler.mean)) / np.asarray(scaler.std)
    out = mlp(params.network, np.clip(scaled, -scaler.limit, scaler.limit))
    mean, raw = out[: len(out) // 2], out[len(out) // 2 :]
    return mean, -1.0 + 3.0 * np.tanh(raw / 3.0)


def normal_log_prob(mean, log_std, u):
    return float(np.sum(-0.5 * ((u - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)))


def squashed_log_prob(mean, log_std, u):
    """Log density of tanh(u): 1 - tanh(u)^2 is 1 / cosh(u)^2."""
    return normal_log_prob(mean, log_std, u) + 2.0 * float(np.sum(np.log(np.cosh(u))))


def gru(params, x, carry):
    """One observation [n] through a gated recurrent unit (Cho et al. 2014): (output, next carry)."""
    for kernel, bias in params["body"]:
        x = np.tanh(x @ np.asarray(kernel, np.float64) + np.asarray(bias, np.float64))
    carry = recurrence(params, x, carry)
    return mlp([params["head"]], carry), carry


def recurrence(params, x, carry):
    """The carry of a gated recurrent unit after x."""
    gates = [np.split(mlp([params[name]], y), 3) for name, y in (("input", x), ("recurrent", carry))]
    reset, update = (1.0 / (1.0 + np.exp(-(gates[0][i] + gates[1][i]))) for i in (0, 1))
    candidate = np.tanh(gates[0][2] + reset * gates[1][2])
    return update * carry + (1.0 - update) * candidate


def along(params, xs, recurrent, memory, place, done):
    """Outputs [T, ...] of one agent for observations [T, n]: from `memory[place]`, from zero after each end."""
    if not recurrent:
        return np.array([mlp(params, x) for x in xs])
    carry, outputs = np.asarray(memory, np.float64)[place], []
    for x, over in zip(xs, np.asarray(done), strict=True):
        y, carry = gru(params, x, carry)
        outputs.append(y)
        if over:
            carry = np.zeros_like(carry)
    return np.array(outputs)


def ppo_loss(heads, values, batch, *, n_choices, ratio_clip, value_clip, value_coefficient, entropy_coefficient):
    """Loss of one agent, sample by sample: network outputs `heads` [t, n, ...], `values` [t, n], and arrays like these.

    `n_choices` 0 means continuous actions; else the last that many entries of the observation are the mask.
    """
    advantage = (batch["advantage"] - batch["advantage"].mean()) / batch["advantage"].std()
    total = 0.0
    for i in np.ndindex(advantage.shape):
        if n_choices:
            allowed = batch["obs"][i][-n_choices:] > 0.5
            weight = np.where(allowed, np.exp(heads[i]), 0.0)
            chance = weight / weight.sum()
            log_density = np.log(chance[int(batch["choice"][i])])
            entropy = -sum(p * np.log(p) for p in chance if p > 0)
        else:
            half = len(heads[i]) // 2
            mean, log_std = heads[i][:half], -1.0 + 3.0 * np.tanh(heads[i][half:] / 3.0)
            log_density = normal_log_prob(mean, log_std, batch["choice"][i])
            u = mean + np.exp(log_std) * batch["noise"][i]
            entropy = np.sum(log_std + 0.5 * np.log(2 * np.pi * np.e) - 2.0 * np.log(np.cosh(u)))
        ratio = np.exp(log_density - batch["log_density"][i])
        clipped = min(max(ratio, 1 - ratio_clip), 1 + ratio_clip)
        value, old, target = values[i], batch["value"][i], batch["target"][i]
        near = old + min(max(value - old, -value_clip), value_clip)
        total -= min(ratio * advantage[i], clipped * advantage[i])
        total += value_coefficient * 0.5 * max((value - target) ** 2, (near - target) ** 2)
        total -= entropy_coefficient * entropy
    return total / advantage.size


def soft_targets(policy, critics, experience, noise, temperature, discount, reward_scale):
    """SAC's targets [B]; `critics` is a pair of layers, `experience` a dict of arrays [B, ...]."""
    targets = []
    for i, next_obs in enumerate(experience["next_obs"]):
        mean, log_std = gaussian(policy, next_obs)
        u = mean + np.exp(log_std) * noise[i]
        value = min(mlp(critic, np.concatenate([next_obs, np.tanh(u)]))[0] for critic in critics)
        soft = value - temperature * squashed_log_prob(mean, log_std, u)
        alive = 0.0 if experience["terminated"][i] else 1.0
        targets.append(reward_scale * experience["reward"][i] + discount * alive * soft)
    return np.array(targets)


def sharpe(returns):
    returns = np.asarray(returns, np.float64)
    return returns.mean() / returns.std(ddof=1)
