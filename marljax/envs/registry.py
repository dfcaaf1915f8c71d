"""Every environment by name. One contract test covers them all; a new env is entered here and is held to it."""

from marljax.envs.controlled.almgren_chriss import AlmgrenChriss
from marljax.envs.controlled.avellaneda_stoikov import AvellanedaStoikov
from marljax.envs.controlled.cart_pole import CartPole
from marljax.envs.controlled.desk import Desk
from marljax.envs.controlled.merton import Merton
from marljax.envs.controlled.return_streams import ReturnStreams
from marljax.envs.controlled.simple_spread import SimpleSpread
from marljax.envs.controlled.two_products import TwoProducts
from marljax.envs.environment import Environment
from marljax.envs.joint_portfolio import JointPortfolioEnv
from marljax.envs.order_book import OrderBookEnv
from marljax.envs.portfolio import PortfolioEnv
from marljax.envs.quoting import QuotingEnv
from marljax.envs.replay import ReplayEnv

ENVIRONMENTS: dict[str, type[Environment]] = {
    "replay": ReplayEnv,
    "quoting": QuotingEnv,
    "portfolio": PortfolioEnv,
    "joint portfolio": JointPortfolioEnv,
    "order book": OrderBookEnv,
    "cart pole": CartPole,
    "simple spread": SimpleSpread,
    "avellaneda stoikov": AvellanedaStoikov,
    "almgren chriss": AlmgrenChriss,
    "merton": Merton,
    "two products": TwoProducts,
    "desk": Desk,
    "return streams": ReturnStreams,
}
