// says: pare: this type is not a pass: it needs a public member `pare::Preserved run(pare::Model&, pare::Context&)`
#include "pare/pass/pass_manager.hpp"

struct NotAPass {
  void apply(pare::Model&) {}
};

pare::PassManager manager{NotAPass{}};
