import pytest

from gateway.models import TemplateRules, template_rules

GEMMA = "{{ raise_exception('System role not supported') }} roles must alternate user/assistant"
MISTRAL = "raise_exception('After the optional system message, conversation roles must alternate')"


@pytest.mark.parametrize(
    ("name", "template", "rules"),
    [
        ("mistralai/Mistral-7B-Instruct-v0.3", None, TemplateRules(must_alternate=True)),
        ("google/gemma-2-9b-it", None, TemplateRules(must_alternate=True, takes_system=False)),
        ("gpt-5", None, TemplateRules()),
        ("my-model", MISTRAL, TemplateRules(must_alternate=True)),
        ("my-model", GEMMA, TemplateRules(must_alternate=True, takes_system=False)),
        ("a mistral with a template of its own", "{{ messages }}", TemplateRules()),
    ],
)
def test_what_a_template_refuses_is_read_from_it_or_from_the_models_name(name, template, rules):
    assert template_rules(name, template) == rules
