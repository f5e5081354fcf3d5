from modules import ELUModule, LinearModule, SoftMaxModule


class MLP:
    def __init__(self, n_inputs, n_hidden, n_classes):
        self.layers = []
        size = n_inputs
        for units in n_hidden:
            self.layers.append(LinearModule(size, units))
            self.layers.append(ELUModule())
            size = units
        self.layers.append(LinearModule(size, n_classes))
        self.layers.append(SoftMaxModule())

    def forward(self, x):
        out = x
        for layer in self.layers:
            out = layer.forward(out)
        return out

    def backward(self, dout):
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
