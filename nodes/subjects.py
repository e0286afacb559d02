"""What belongs to which subject of the prompt."""

from __future__ import annotations

from comfy_api.latest import io

from ..gd_core.subject_masks import subject_masks
from ..gd_core.views import ViewSet
from .border import at_the_border
from .types import CATEGORY, GDViews


class SubjectMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GroundedDreamerSubjectMasks",
            display_name="Subject Masks",
            category=CATEGORY,
            description="Divides each view among the subjects of the prompt: one mask a subject and view, by the model's own "
            "attention and the image's edges.",
            search_aliases=["segment by word", "attention mask", "mask by text", "clipseg", "grounding"],
            inputs=[GDViews.Input("views", tooltip="From the 4-View Sampler. Views from images have no attention to go by.")],
            outputs=[
                io.Mask.Output(
                    display_name="masks",
                    is_output_list=True,
                    tooltip="A batch of one mask a view for each subject, one subject after another.",
                ),
                io.String.Output(display_name="subjects", is_output_list=True, tooltip="The subject of each batch."),
            ],
        )

    @classmethod
    @at_the_border
    def execute(cls, views: ViewSet) -> io.NodeOutput:
        found = subject_masks(views)
        if found.note:
            raise ValueError(f"'views': {found.note}")
        return io.NodeOutput(list(found.shares), list(found.names), ui={"text": [", ".join(found.names)]})
