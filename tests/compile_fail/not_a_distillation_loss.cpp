// says: pare: this type is not a distillation loss: it needs a public member
#include "pare/distill/any_distillation_loss.hpp"

struct NotALoss {
  double value = 0;
};

pare::AnyDistillationLoss loss{NotALoss{}};
