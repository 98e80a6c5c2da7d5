// says: pare: run() of a pass must return pare::Preserved: what is still true of the model after it ran
#include "pare/pass/pass_manager.hpp"

struct ReturnsNothing {
  void run(pare::Model&, pare::Context&) {}
};

pare::PassManager manager{ReturnsNothing{}};
