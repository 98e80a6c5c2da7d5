#pragma once
#include <pare/pass/apply.hpp>

struct ReluToRelu6 {
  pare::Preserved run(pare::Model& model, pare::Context& context) {
    for (auto node : model.graph().nodes(pare::op("aten::relu"))) {
      context.rewriter().replace(node, "aten::relu6");
      context.report().done(node, "relu -> relu6");
    }
    return pare::Preserved::topology();
  }
};
