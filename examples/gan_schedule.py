"""A GAN in plain PyTorch: the schedule says which network trains next; loop, networks and optimizers are yours."""

import torch
from torch import nn
from torch.nn.functional import softplus

import l2o

STEPS, BATCH, LATENT = 2000, 64, 32

torch.manual_seed(0)
torch.set_num_threads(1)  # tensors are small: one thread is as fast as several
images = l2o.load_dataset("digits", "train").inputs.float().flatten(1) / 127.5 - 1  # 8x8 pixels in [-1, 1]
generator = nn.Sequential(
    nn.Linear(LATENT, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64), nn.Tanh()
)
discriminator = nn.Sequential(
    nn.Linear(64, 128), nn.LeakyReLU(0.2), nn.Linear(128, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1)
)
networks = {"generator": generator, "discriminator": discriminator}
optimizers = {name: torch.optim.Adam(net.parameters(), 5e-4, betas=(0.5, 0.999)) for name, net in networks.items()}


def loss_of(choice):
    made = generator(torch.randn(BATCH, LATENT))
    if choice == "generator":
        return softplus(-discriminator(made)).mean()
    real = images[torch.randint(len(images), (BATCH,))]
    return (softplus(-discriminator(real)).mean() + softplus(discriminator(made.detach())).mean()) / 2


# Three steps of the discriminator for one of the generator. A trained one: l2o.load_schedule("path or name").
follow = l2o.follow(
    l2o.InTurn.ratio(1, 3),
    choices=("generator", "discriminator"),
    groups={name: network.parameters() for name, network in networks.items()},
    steps=STEPS,
)
follow.measure({name: loss_of(name) for name in networks})  # a trained schedule decides by these

for step in range(STEPS):
    choice = follow.choose()
    optimizers[choice].zero_grad()
    loss = loss_of(choice)
    loss.backward()
    follow.took({choice: loss})  # reads the gradients of that network
    optimizers[choice].step()
    if step % 500 == 0:
        print(f"step {step:4d}  {choice} loss {loss.item():.3f}")

with torch.no_grad():
    made = generator(torch.randn(500, LATENT))
nearest = torch.cdist(made, images).min(1).values.mean()
print(f"generator took {1 - follow.decisions.double().mean():.0%} of the steps")
print(
    f"mean distance of a generated digit to the nearest real one {nearest:.2f}, of noise "
    f"{torch.cdist(2 * torch.rand(500, 64) - 1, images).min(1).values.mean():.2f}"
)
