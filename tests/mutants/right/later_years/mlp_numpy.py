from modules import ELUModule, LinearModule, SoftMaxModule


class MLP:
    def __init__(self, n_inputs, n_hidden, n_classes, alpha=1.0):
        sizes = [n_inputs] + n_hidden
        self.hidden = [
            (LinearModule(sizes[i], sizes[i + 1], i == 0), ELUModule(alpha))
            for i in range(len(n_hidden))
        ]
        self.output = {"softmax": SoftMaxModule(), "linear": LinearModule(sizes[-1], n_classes)}

    def forward(self, x):
        for linear, elu in self.hidden:
            x = elu.forward(linear.forward(x))
        return self.output["softmax"].forward(self.output["linear"].forward(x))

    def backward(self, dout):
        dout = self.output["linear"].backward(self.output["softmax"].backward(dout))
        for linear, elu in self.hidden[::-1]:
            dout = linear.backward(elu.backward(dout))
        return dout

    def clear_cache(self):
        for linear, elu in self.hidden:
            linear.clear_cache()
            elu.clear_cache()
