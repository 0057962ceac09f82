"""Which designs can be trained as machine code."""

from dnnflow.design.layers import Design

ACTIVATIONS = ("linear", "relu", "leaky_relu", "elu", "selu", "tanh", "sigmoid", "softsign")
"""Those whose slope follows from their output. A layer's kind is its activation's place here."""
OPTIMIZERS = ("sgd", "adam", "adamw")


def why_not_compiled(design: Design) -> str | None:
    """Say why a design cannot be trained as machine code, or return None if it can."""
    if design.reference is not None:
        return "the compiled engine cannot train designs by reference; take engine auto or keras"
    if design.residual:
        return _refusal("no residual connections", f"residual {design.residual}")
    for layer in design.layers:
        if layer.activation not in ACTIVATIONS:
            return _refusal(f"the activations {', '.join(ACTIVATIONS)}", layer.activation)
        for name in ("batch_norm", "dropout", "l2"):
            if getattr(layer, name):
                return _refusal(f"no {name}", f"{getattr(layer, name)}")
    optimizer = design.optimizer
    if optimizer.name not in OPTIMIZERS or optimizer.parameters.get("amsgrad"):
        return _refusal("the optimizers sgd, adam and adamw without amsgrad", optimizer.name)
    return None


def _refusal(rule: str, got: str) -> str:
    return f"the compiled engine takes {rule}, got {got}; take engine auto"
