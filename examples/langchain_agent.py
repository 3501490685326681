# /// script
# requires-python = ">=3.10"
# dependencies = ["langchain==1.4.7", "langchain-mcp-adapters==0.3.2"]
# ///
"""A LangChain agent that answers from what it finds with hybrid-search.

python langchain_agent.py                                  # starts mcp-hybrid-search
python langchain_agent.py --url http://127.0.0.1:8000/mcp  # a server that runs already

A scripted model stands where yours would, so that no key is needed: it searches for
whatever it is asked and quotes the first hit. Pass `create_agent` another one instead,
such as `init_chat_model("claude-sonnet-4-5")`.
"""

import argparse
import asyncio
import os
from collections.abc import Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools

COLLECTION = "example-recipes"
TEXTS = {
    "sourdough": "Feed the starter eight hours before the dough is mixed.",
    "espresso": "Grind finer when the shot runs through in under twenty seconds.",
}
QUESTION = "My coffee comes out too fast. What should I change?"


class ScriptedModel(BaseChatModel):
    """Searches for what it is asked, then quotes the best hit."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[BaseTool], **_: Any) -> "ScriptedModel":
        """Learn of the tools; this model knows already which one it calls."""
        del tools
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        last = messages[-1]
        if isinstance(last, ToolMessage):
            best = last.artifact["structured_content"]["hits"][0]
            answer = AIMessage(f"{best['text']} [{best['document_id']}]")
        else:
            arguments = {"query": last.content, "collection": COLLECTION}
            call = {"name": "hybrid-search", "args": arguments, "id": "1"}
            answer = AIMessage("", tool_calls=[call])
        return ChatResult(generations=[ChatGeneration(message=answer)])


async def store_and_ask(connection: dict[str, Any]) -> None:
    """Store every text, then let the agent answer the question."""
    client = MultiServerMCPClient({"memory": connection})
    async with client.session("memory") as session:
        tools = {tool.name: tool for tool in await load_mcp_tools(session)}
        for name, text in TEXTS.items():
            await tools["store-document"].ainvoke(
                {"id": name, "text": text, "collection": COLLECTION}
            )
            print(f"stored: {name}")

        agent = create_agent(ScriptedModel(), list(tools.values()))
        asked = {"messages": [{"role": "user", "content": QUESTION}]}
        for message in (await agent.ainvoke(asked))["messages"]:
            calls = [call["name"] for call in getattr(message, "tool_calls", [])]
            print(f"{message.type}: {' '.join(calls) or message.text}")


def main() -> None:
    """Reach the server that the command line names."""
    parser = argparse.ArgumentParser(description="Store two texts and ask an agent.")
    parser.add_argument("--url", help="a server that runs already, over HTTP")
    parser.add_argument("command", nargs="*", default=["mcp-hybrid-search"])
    given = parser.parse_args()
    if given.url:
        connection = {"transport": "streamable_http", "url": given.url}
    else:
        command, *arguments = given.command
        connection = {
            "transport": "stdio",
            "command": command,
            "args": arguments,
            "env": dict(os.environ),
        }
    asyncio.run(store_and_ask(connection))


if __name__ == "__main__":
    main()
