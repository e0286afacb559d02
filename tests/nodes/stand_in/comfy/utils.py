class ProgressBar:
    updates = []  # (node, value, total, preview) of every bar, for the tests to look at

    def __init__(self, total, node_id=None):
        self.total, self.node_id = total, node_id

    def update_absolute(self, value, total=None, preview=None):
        ProgressBar.updates.append((self.node_id, value, total, preview))
