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


def gaussian(layers, obs):
    """(mean, log standard deviation) of the policy at one observation."""
    out = mlp(layers, obs)
    mean, raw = out[: len(out) // 2], out[len(out) // 2 :]
    return mean, -1.0 + 3.0 * np.tanh(raw / 3.0)


def normal_log_prob(mean, log_std, u):
    return float(np.sum(-0.5 * ((u - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)))


def squashed_log_prob(mean, log_std, u):
    """Log density of tanh(u): 1 - tanh(u)^2 is 1 / cosh(u)^2."""
    return normal_log_prob(mean, log_std, u) + 2.0 * float(np.sum(np.log(np.cosh(u))))


def ppo_loss(policy, critic, batch, ratio_clip, value_clip, value_coefficient, entropy_coefficient):
    """Total loss of a minibatch, sample by sample; `batch` is a dict of arrays [B, ...]."""
    advantage = (batch["advantage"] - batch["advantage"].mean()) / batch["advantage"].std()
    policy_loss = value_loss = entropy = 0.0
    n = len(advantage)
    for i in range(n):
        mean, log_std = gaussian(policy, batch["obs"][i])
        ratio = np.exp(normal_log_prob(mean, log_std, batch["pre_tanh"][i]) - batch["log_prob"][i])
        clipped = min(max(ratio, 1 - ratio_clip), 1 + ratio_clip)
        policy_loss -= min(ratio * advantage[i], clipped * advantage[i]) / n
        value, old = mlp(critic, batch["obs"][i])[0], batch["value"][i]
        near = old + min(max(value - old, -value_clip), value_clip)
        value_loss += 0.5 * max((value - batch["target"][i]) ** 2, (near - batch["target"][i]) ** 2) / n
        u = mean + np.exp(log_std) * batch["noise"][i]
        entropy += np.sum(log_std + 0.5 * np.log(2 * np.pi * np.e) - 2.0 * np.log(np.cosh(u))) / n
    return policy_loss + value_coefficient * value_loss - entropy_coefficient * entropy


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
