"""A pretrained optimizer in an ordinary PyTorch loop: the only new line is the one that makes the optimizer."""

import torch

import l2o

torch.manual_seed(0)
data, test = l2o.load_dataset("digits", "train"), l2o.load_dataset("digits", "test")
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))

optimizer = l2o.load("rnnprop-mnist").as_torch(model.parameters())

for step in range(200):
    batch = torch.randint(len(data.inputs), (128,))
    loss = torch.nn.functional.cross_entropy(model(data.inputs[batch] / 255), data.labels[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        print(f"step {step:3d}  loss {loss.item():.4f}")

accuracy = (model(test.inputs / 255).argmax(1) == test.labels).float().mean().item()
print(f"test accuracy {accuracy:.3f}")
