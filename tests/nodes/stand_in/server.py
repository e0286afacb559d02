from aiohttp import web


class PromptServer:
    instance = None

    def __init__(self):
        self.routes = web.RouteTableDef()
        self.client_id = "test"
        self.events, self.texts = [], []

    def send_sync(self, event, data, sid=None):
        self.events.append((event, data))

    def send_progress_text(self, text, node_id, sid=None):
        self.texts.append((node_id, text))


PromptServer.instance = PromptServer()
