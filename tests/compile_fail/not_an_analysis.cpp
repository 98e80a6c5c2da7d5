// says: pare: an analysis must be constructible from `const pare::Model&` or from `(const pare::Model&,
// pare::Analyses&)`
#include "pare/pass/context.hpp"

struct NotAnAnalysis {
  explicit NotAnAnalysis(int) {}
};

const NotAnAnalysis& ask(pare::Context& context) { return context.analysis<NotAnAnalysis>(); }
