"""Access to the Hugging Face Hub: resolve a revision, fetch its files, check every byte."""

from orchestrator.errors import HubError

try:  # the client reads its environment variables as it is imported
    import huggingface_hub.constants  # noqa: F401 - for its faults alone
except ValueError as error:
    message = f"an environment variable of the Hub's client, such as HF_ENDPOINT, cannot be read: {error}"
    raise HubError(message, hint="correct it, or unset it: env | grep HF_") from error
