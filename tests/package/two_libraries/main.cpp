bool first();
bool second();

int main() { return first() && second() && first() ? 0 : 1; }
