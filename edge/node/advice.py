"""What a node's states and reasons mean to the person in front of it, and what to do: for the page and the manual."""

STATES = {
    "starting": ("Starting", "The node looks at what it served before."),
    "waiting": ("Waiting", "The node runs, and has no release to serve."),
    "updating": ("Updating", "A new release is fetched and tried. What was served before is served on."),
    "probation": ("Serving, on probation", "A new release answers; it must hold out a little before it is trusted."),
    "serving": ("Serving", "Questions are answered."),
}
NOT_SERVING = ("starting", "waiting")
UNKNOWN = "Look into docs/node.md, or ask whoever publishes the releases."

_PUBLISH = "Publish a whole, signed release again; this one is not tried a second time."
_DISK = "Nothing has to be done on the node afterwards: it goes on by itself."
# Reason -> (what happened, what to do).
REASONS = {
    "activated": ("A new release is served.", ""),
    "unreachable": (
        "The place where releases are kept does not answer.",
        "Check the network, and the address given as --releases.",
    ),
    "redirected": ("The origin sent the node to another host.", "Give the host's own address as --releases."),
    "bad_assignment": ("The file that names the wanted version holds no number.", "Correct the file."),
    "not_listed": (
        "The wanted release is not among the signed ones.",
        "It was never published, or was withdrawn: ask for another.",
    ),
    "below_minimum": ("The wanted release is below the signed minimum.", "Ask for a newer one."),
    "expired_metadata": (
        "The list of releases is too old to be trusted.",
        "Run `edgedistill release refresh` where the keys are, and check the node's clock.",
    ),
    "old_metadata": (
        "The origin offered an older list than this node has seen.",
        "Somebody may be replaying old files: check the origin.",
    ),
    "bad_signature": (
        "The files are not signed by this fleet's keys.",
        "Check that --root is this fleet's root.json; if it is, somebody changed the files.",
    ),
    "bad_metadata": ("The list of releases is damaged.", "Check the origin; publish again."),
    "bad_manifest": ("The release's manifest is damaged.", _PUBLISH),
    "wrong_digest": (
        "A file is not what was signed.",
        "Mend the copy at the origin; the node looks again within ten minutes, or when it is told another release.",
    ),
    "missing_file": ("A file of the release is missing.", "Complete the copy at the origin, or publish again."),
    "extra_file": ("The release holds a file that its manifest does not name.", _PUBLISH),
    "mix_and_match": ("The files are of two different releases.", _PUBLISH),
    "changed_release": (
        "The number of the release that is served is listed with other bytes.",
        "Somebody signed twice: find out who, and publish under a new number.",
    ),
    "drift": (
        "The answers drift from what the release gave when it was made.",
        "Look at docs/feedback.md; a run may help.",
    ),
    "cannot_compile": ("The model cannot be loaded by this node's OpenVINO.", "Convert and publish the student again."),
    "wrong_answer": ("The model does not answer as it did when it was made.", "Convert and publish the student again."),
    "wrong_labels": ("The labels do not fit the release's classes.", "Convert and publish the student again."),
    "wrong_shape": ("The model's input or output is not what its manifest says.", "Convert and publish it again."),
    "interrupted": ("Fetching or trying a release was interrupted.", "The node tries again by itself."),
    "too_slow": ("The model takes too long on this machine.", "Publish a smaller student, or use a faster machine."),
    "crashed": ("The model ended the process that tried it.", "Convert and publish the student again."),
    "died": ("The node died again and again while it served this release.", "Look into the node's log; publish anew."),
    "failing": ("Too many of the release's answers failed.", "Look into the node's log; publish anew."),
    "disk_full": ("The disk is full.", f"Make space. {_DISK}"),
    "disk_read_only": ("The disk cannot be written.", f"Mount it for writing, and check its health. {_DISK}"),
    "disk_error": ("The disk fails.", f"Check its health. {_DISK}"),
    "internal_error": (
        "Something that nobody thought of stopped an update.",
        "Look into the node's log and report it. The node tries again by itself.",
    ),
    "damaged_quarantine": ("The list of refused releases was damaged, and begun anew.", "Check the disk's health."),
}
